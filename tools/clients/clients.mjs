#!/usr/bin/env node
// Asks a running `asynctls serve` by npm's `ai`: clients.mjs http://127.0.0.1:8080 [KEY]
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, streamText, tool } from 'ai';

const [base, apiKey = 'none'] = process.argv.slice(2);
const headers = { authorization: `Bearer ${apiKey}` };
const { data } = await (await fetch(`${base}/v1/models`, { headers })).json();
const prompt = 'Name three colours, and say a sentence about each of them.';
const check = (what, holds, detail) => {
  if (!holds) throw new Error(`${what} is wrong: ${JSON.stringify(detail)}`);
  console.log(`fine: ${what}`);
};

const openai = createOpenAICompatible({
  name: 'asynctls', baseURL: `${base}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL: `${base}/v1`, apiKey });
let said;
for (const [name, model] of [['OpenAI', openai(data[0].id)], ['Anthropic', anthropic(data[0].id)]]) {
  const asked = { model, prompt, maxOutputTokens: 16, temperature: 0, maxRetries: 0 };
  const whole = await generateText(asked);
  said ??= whole.text;
  check(`ai, ${name}`, whole.text === said && whole.finishReason === 'length' && whole.usage.outputTokens === 16, whole.usage);
  let text = '';
  const stream = streamText(asked);
  for await (const part of stream.textStream) text += part;
  check(`ai, ${name}, as a stream`, text === said && (await stream.usage).outputTokens === 16, text);
}

const colour = { type: 'object', properties: { colour: { enum: ['red', 'green'] } }, required: ['colour'], additionalProperties: false };
const { object } = await generateObject({
  model: openai(data[0].id), prompt, schema: jsonSchema(colour), schemaName: 'colour', maxOutputTokens: 900, temperature: 0, maxRetries: 0,
});
check('ai, an object', ['red', 'green'].includes(object.colour), object);

const paint = tool({ description: 'Paints the wall.', inputSchema: jsonSchema(colour), execute: async ({ colour }) => `${colour} it is` });
for (const [name, model] of [['OpenAI', openai(data[0].id)], ['Anthropic', anthropic(data[0].id)]]) {
  const asked = { model, prompt, tools: { paint }, toolChoice: 'required', maxOutputTokens: 900, temperature: 0, maxRetries: 0 };
  // The blanks that its JSON may have are fewer than it may be long: it is never cut off.
  const called = await generateText(asked);
  const isCall = ({ toolName, input }) => toolName === 'paint' && ['red', 'green'].includes(input.colour);
  const fine = called.finishReason === 'tool-calls' && called.toolCalls.length === 1 && called.toolCalls.every(isCall);
  check(`ai, ${name}, a call`, fine, called);
}
