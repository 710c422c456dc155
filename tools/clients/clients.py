#!/usr/bin/env python3
"""Asks a running `asynctls serve` by the clients that OpenAI and Anthropic publish: clients.py http://127.0.0.1:8080 [KEY]."""

import json
import sys

import anthropic
import openai

BASE, KEY = sys.argv[1].rstrip("/"), (sys.argv[2:] or ["none"])[0]
# Blanks between all signs of these schemas' JSON are fewer: what is longer was not held to them.
ENOUGH = 900
MESSAGES = [{"role": "user", "content": "Name three colours, and say a sentence about each of them. " * 8}]


def check(what, holds, detail=""):
    if not holds:
        sys.exit(f"{what} is wrong: {detail}")
    print(f"fine: {what}")


def by_openai():
    client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
    models = client.models.list().data
    check("models", len(models) == 1, models)
    model = models[0].id
    asked = {"model": model, "messages": MESSAGES, "max_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    said = whole.choices[0].message.content
    check("a chat", whole.usage.completion_tokens == 16 and whole.choices[0].finish_reason == "length", whole)
    stream = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    check("a chat as a stream", text == said, f"{text!r} is not {said!r}")
    usage = stream[-1].usage
    check("cached tokens", 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens, usage)
    likely = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0]
    tokens = likely.logprobs.content
    spelled = bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace")
    best = all(token.logprob == token.top_logprobs[0].logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)
    check("log-probabilities", len(tokens) == 16 and best and spelled == said == likely.message.content, likely)
    stream = list(client.chat.completions.create(**asked, logprobs=True, stream=True))
    parts = [part for chunk in stream if chunk.choices[0].logprobs for part in chunk.choices[0].logprobs.content]
    check("log-probabilities of a stream", [part.token for part in parts] == [token.token for token in tokens], parts)
    colours = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "colours", "schema": colours, "strict": True}}
    formed = client.chat.completions.create(**{**asked, "max_tokens": ENOUGH}, response_format=form).choices[0]
    check("the end of JSON by a schema", formed.finish_reason == "stop", formed)
    value = json.loads(formed.message.content)
    check("JSON by a schema", value["colour"] in ("red", "green", "blue") and 1 <= value["count"] <= 9, formed)
    form = {"format": {"type": "json_schema", "name": "colours", "schema": colours, "strict": True}}
    formed = client.responses.create(model=model, input=MESSAGES, max_output_tokens=ENOUGH, temperature=0, text=form)
    check("JSON by a schema in a response", formed.status == "completed" and json.loads(formed.output_text) == value, formed)
    parameters = {**colours, "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]}
    function = {"name": "paint", "description": "Paints the wall.", "parameters": parameters}
    called = client.chat.completions.create(
        **{**asked, "max_tokens": ENOUGH}, tools=[{"type": "function", "function": function}], tool_choice="required"
    ).choices[0]
    calls = called.message.tool_calls or []
    fine = [json.loads(call.function.arguments)["colour"] in ("red", "green") and call.function.name == "paint" for call in calls]
    check("a call", fine == [True] and called.finish_reason == "tool_calls", called)
    call = {"id": "abc123def", "type": "function", "function": {"name": "paint", "arguments": '{"colour": "red"}'}}
    back = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "abc123def", "content": "Painted."}]
    whole = client.chat.completions.create(
        **{**asked, "messages": MESSAGES + back}, tools=[{"type": "function", "function": function}]
    )
    ends = ("stop", "length", "tool_calls")
    check("what a call gave", whole.usage.completion_tokens <= 16 and whole.choices[0].finish_reason in ends, whole)
    with client.responses.stream(
        model=model, input=MESSAGES, max_output_tokens=ENOUGH, temperature=0, tools=[{"type": "function", "strict": True, **function}],
        tool_choice={"type": "function", "name": "paint"},
    ) as events:
        types = [event.type for event in events]
        check("the end of a response", types[-1] == "response.completed", types)
        made = events.get_final_response()
    check("a call in a response", made.status == "completed" and made.output[0].type == "function_call", made)
    completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=4, seed=1)
    check("a completion", completion.usage.completion_tokens == 4 and completion.choices[0].finish_reason == "length", completion)
    likely = client.completions.create(model=model, prompt="Once upon a time", max_tokens=4, seed=1, logprobs=2).choices[0]
    check("those of a completion", len(likely.logprobs.tokens) == len(likely.logprobs.top_logprobs) == 4, likely)
    response = client.responses.create(model=model, input=MESSAGES, max_output_tokens=16, temperature=0)
    check("a response", response.output_text == said and response.status == "incomplete", response)
    with client.responses.stream(model=model, input=MESSAGES, max_output_tokens=16, temperature=0) as events:
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    check("a response as a stream", deltas == said, deltas)
    try:
        client.chat.completions.create(model=model, messages=[])
        check("a refusal", False)
    except openai.BadRequestError as error:
        check("a refusal", "messages is []" in error.message, error)
    return model, said


def by_anthropic(model, said):
    client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
    asked = {"model": model, "messages": MESSAGES, "max_tokens": 16, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    check("a message", whole.content[0].text == said and whole.stop_reason == "max_tokens", whole)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    fine = text == said and last.usage.output_tokens == 16 and last.stop_reason == "max_tokens"
    check("a message as a stream", fine, last)
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"], "additionalProperties": False}
    tools = [{"name": "paint", "description": "Paints the wall.", "input_schema": schema}]
    forced = {**asked, "max_tokens": ENOUGH, "tools": tools, "tool_choice": {"type": "any"}}
    with client.messages.stream(**forced) as stream:
        last = stream.get_final_message()
    called = last.content[-1]
    fine = called.type == "tool_use" and called.name == "paint" and called.input["colour"] in ("red", "green")
    check("a call in a message", fine and last.stop_reason == "tool_use", last)
    back = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "abc123def", "name": "paint", "input": {"colour": "red"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "abc123def", "content": "Painted."}]},
    ]
    whole_back = client.messages.create(**{**asked, "messages": MESSAGES + back}, tools=tools)
    ends = ("end_turn", "max_tokens", "tool_use")
    check("what its call gave", whole_back.usage.output_tokens <= 16 and whole_back.stop_reason in ends, whole_back)
    counted = client.messages.count_tokens(model=model, messages=MESSAGES)
    used = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    check("counted tokens", counted.input_tokens == used, counted)
    try:
        client.messages.create(**{**asked, "max_tokens": 0})
        check("a refusal", False)
    except anthropic.BadRequestError as error:
        check("a refusal", "max_tokens is 0" in str(error), error)


by_anthropic(*by_openai())
