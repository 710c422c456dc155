#!/usr/bin/env python3
"""Writes tests/goldens/chat_templates.json: constructs of published chat templates, and what transformers render.

    pip install transformers==5.24.0 jinja2==3.1.6
    tools/goldens/chat_templates.py tests/goldens/chat_templates.json

The templates are small and written for this purpose, in the style of the published ones of Qwen3, its Coder and its
variants with and without thinking, GLM-4, Llama 3, SmolLM2 and 3, DeepSeek, Phi, LFM2 and others. Each is rendered by
transformers itself for several conversations. `expected` is null where it raises an error.
"""

import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

SYSTEM = {"role": "system", "content": "You answer  briefly.\n"}
SWITCH = {"role": "system", "content": "Be kind. /no_think"}
ASK = {"role": "user", "content": " What is <b>2 + 2</b>? \n"}
SAY = {"role": "assistant", "content": "It is 4."}
THINK = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}
MORE = {"role": "user", "content": 'And 3 + "3"?\n\nIch weiß.'}
TALKS = [[ASK], [SYSTEM, ASK], [SWITCH, MORE], [ASK, SAY, MORE], [SYSTEM, ASK, THINK, MORE], [ASK, THINK, MORE, THINK]]

CONVERSATIONS = {
    "chatml": r"""{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "qwen3": r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}""",
    "qwen3-coder": r"""{% macro render_extra_keys(json_dict, handled_keys) %}
    {%- if json_dict is mapping %}
        {%- for json_key in json_dict if json_key not in handled_keys %}
            {%- if json_dict[json_key] is mapping or (json_dict[json_key] is sequence and json_dict[json_key] is not string) %}
                {{- '\n<' ~ json_key ~ '>' ~ (json_dict[json_key] | tojson | safe) ~ '</' ~ json_key ~ '>' }}
            {%- else %}
                {{-'\n<' ~ json_key ~ '>' ~ (json_dict[json_key] | string) ~ '</' ~ json_key ~ '>' }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{% endmacro %}
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = [] %}{%- endif %}
{%- if system_message is defined %}
    {{- "<|im_start|>system\n" + system_message }}
{%- else %}
    {%- if tools is iterable and tools | length > 0 %}{{- "<|im_start|>system\nYou can use tools." }}{%- endif %}
{%- endif %}
{%- if tools is iterable and tools | length > 0 %}{{- "\n# Tools" }}{%- endif %}
{%- if system_message is defined %}
    {{- '<|im_end|>\n' }}
{%- else %}
    {%- if tools is iterable and tools | length > 0 %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endif %}
{%- for message in loop_messages %}
    {{- render_extra_keys({"z": 1, "name": "f", "a": [1, "x"], "m": {"k": none}}, ["name"]) if loop.first else '' }}
    {%- if message.role == "assistant" and message.tool_calls is defined and message.tool_calls is iterable and message.tool_calls | length > 0 %}
        {{- '<tool_call>' }}
    {%- elif message.role == "user" or message.role == "system" or message.role == "assistant" %}
        {{- '\n<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}{{- '<|im_start|>user\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""",
    "glm4": r"""[gMASK]<sop>
{%- macro visible_text(content) -%}
    {%- if content is string -%}
        {{- content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{- content }}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last_user_index=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.last_user_index = loop.index0 -%}{%- endif %}
{%- endfor %}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{{ visible_text(m.content) }}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not visible_text(m.content).endswith("/nothink")) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set reasoning_content = '' %}
{%- set content = visible_text(m.content) %}
{%- if m.reasoning_content is string %}
    {%- set reasoning_content = m.reasoning_content %}
{%- else %}
    {%- if '</think>' in content %}
        {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
{%- endif %}
{%- if loop.index0 > ns.last_user_index and reasoning_content -%}
{{ '\n<think>' + reasoning_content.strip() +  '</think>'}}
{%- else -%}
{{ '\n<think></think>' }}
{%- endif -%}
{%- if content.strip() -%}
{{ '\n' + content.strip() }}
{%- endif -%}
{%- elif m.role == 'system' -%}
<|system|>
{{ visible_text(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|assistant|>{{- '\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}
{%- endif -%}""",
    "llama3": r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "smollm3": r"""{# A default that a variable can change #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}
    {%- set reasoning_mode = "/think" -%}
  {%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "Knowledge Cutoff Date: June 2025\n" -}}
{{- "Reasoning Mode: " + reasoning_mode + "\n\n" -}}
{%- if custom_instructions -%}{{- custom_instructions + "\n\n" -}}{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\n"  + content + "<|im_end|>\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\n" + content.lstrip("\n") + "<|im_end|>\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\n" + "<think>\n\n</think>\n" + content.lstrip("\n") + "<|im_end|>\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
        {{ "<|im_start|>" + "user\n"  + content + "<|im_end|>\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if reasoning_mode == "/think" -%}
        {{ "<|im_start|>assistant\n" }}
    {%- else -%}
        {{ "<|im_start|>assistant\n" + "<think>\n\n</think>\n"  }}
    {%- endif -%}
{%- endif -%}""",
    "deepseek": r"""{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\n'}}{% endif %}""",
    "phi": r"""{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    "lfm2": r"""{{- bos_token -}}
{%- set keep_past_thinking = keep_past_thinking | default(false) -%}
{%- set ns = namespace(system_prompt="", last_assistant_index=-1) -%}
{%- if messages[0]["role"] == "system" -%}
    {%- set ns.system_prompt = messages[0]["content"] -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.system_prompt = ns.system_prompt + ("\n" if ns.system_prompt else "") + "List of tools: [" -%}
{%- endif -%}
{%- if ns.system_prompt -%}
    {{- "<|im_start|>system\n" + ns.system_prompt + "<|im_end|>\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message["role"] == "assistant" -%}{%- set ns.last_assistant_index = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- "<|im_start|>" + message["role"] + "\n" -}}
    {%- set content = message["content"] -%}
    {%- if content is not string -%}{%- set content = content | tojson -%}{%- endif -%}
    {%- if message["role"] == "assistant" and not keep_past_thinking and loop.index0 != ns.last_assistant_index -%}
        {%- if "</think>" in content -%}{%- set content = content.split("</think>")[-1] | trim -%}{%- endif -%}
    {%- endif -%}
    {{- content + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}
""",
    "llama2": r"""{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "no-system": r"""{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}""",
    "titles": r"""{{ bos_token }}{% for message in messages %}{{ 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}""",
    "filters": r"""{%- set user = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- set rest = messages | rejectattr('role', 'in', ['user', 'system']) | list -%}
{{- user | length }}|{{ rest | map(attribute='content') | join('; ') }}|{{ (user | last).content | trim }}|{{ messages | map(attribute='role') | unique | join(',') }}
{%- for message in user if message.content | length > 15 %}[{{ message.content | upper | replace('WHAT', 'w') }}]{% endfor -%}""",
    "generation": r"""{% for m in messages %}
{% if m.role == 'assistant' %}
    {%- generation -%}
    {% set said = m.content %}{{ said }}{{ eos_token }}
    {%- endgeneration +%}
{% else %}
{{ m.role }}: {% generation %}
  {{ m.content }}
  {% endgeneration %}
{% endif %}
{% endfor %}{{ said | default('gone') }}""",
    "blocks": r"""{% set intro %}{{ messages[0].role | capitalize }} of {{ messages | length }}
{% endset %}
{{ intro }}
{%- for message in messages %}
    {%- if loop.index0 == 2 %}{% break %}{% endif %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
{{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }} {{ loop.cycle('a', 'b') }} {{ loop.changed(message.role) }} {{ (loop.nextitem | default({'role': 'none'})).role }}
{% else %}
nobody
{% endfor %}
{% filter upper %}end of {{ eos_token }}{% endfilter %}""",
}

EXPRESSIONS = [
    "none is iterable",
    "[] is iterable, 'a' is iterable, {} is iterable, missing is iterable, 3 is iterable, true is iterable",
    "none is sequence, 'a' is sequence, [] is sequence, {} is sequence, missing is sequence, 3 is sequence",
    "none is mapping, {} is mapping, [] is mapping, 'a' is mapping, messages[0] is mapping, missing is mapping",
    "none is string, '' is string, 3 is string, 3 is number, true is number, 3.5 is float, 3 is integer, true is boolean",
    "none is none, missing is none, missing is defined, none is defined, tools is none, documents is none",
    "false is false, 0 is false, true is true, 1 is true, enable_thinking is false",
    "3 is odd, 4 is even, 9 is divisibleby(3), 'a' is in('abc'), 'x' is eq('x'), 2 is gt(1), 'A' is upper",
    "1 in [1, 2], 'k' in {'k': 1}, 'b' not in 'abc', 3 not in [1]",
    "'a' if true else 'b', ('a' if false), 'a' if messages else 'b', not messages",
    "none, true, 1.0, 1.5, 10 // 3, 10 / 4, 10 % 3, -7 // 2, -7 % 3, 2 ** 10",
    "'ab' * 3, [0] * 2, '-' * 0",
    "'a' ~ 1 ~ none ~ true ~ 1.5",
    "[1, 'two', none, true, 2.5, [3], {'k': 'v'}]",
    "{'b': 1, 'a': 'x', 'c': {'z': none}}",
    "('a', 1), ('a',)",
    "\"it's\", 'say \"x\"', [\"it's\"], ['say \"x\"'], ['a\\nb\\\\é']",
    "messages[0]",
    "messages[::-1][0].role, messages[-1].role, messages[1:] | length, messages[:1] | length, 'abcdef'[1:4], 'abcdef'[::-2]",
    "messages[0].missing, messages[0]['missing'] is defined, messages[5] is defined, messages[0].get('name', 'no')",
    "{'b': 1, 'a': 2}.items() | list, {'b': 1, 'a': 2} | dictsort, {'b': 1, 'a': 2}.keys() | list, {'b': 1}.values() | list",
    "{'b': 1, 'a': 2} | items | list, {'b': 1, 'a': 2} | list, {'b': 1, 'a': 2} | length, dict(x=1, y=2)",
    "{'b': {'x': [1, 2.5, true, none, 'é<&\\n']}, 'a': []} | tojson",
    "{'b': {'x': [1, {}]}, 'a': []} | tojson(indent=2)",
    "{'b': 1, 'a': 'é😀\\x7f'} | tojson(ensure_ascii=true, sort_keys=true)",
    "[1, {'a': 2}] | tojson(separators=(',', ':'))",
    "messages | tojson, 'q\"\\\\/' | tojson, none | tojson, 5 | tojson, {1: 2, none: 3} | tojson",
    "missing | tojson",
    "'  a b '.strip(), 'xxaxx'.strip('x'), 'abc'.lstrip('ab'), 'abc'.rstrip('bc'), '\\n\\na\\n'.strip('\\n')",
    "'a,b,c'.split(','), 'a b  c'.split(), 'a,b,c'.split(',', 1), 'abc'.split('x'), ''.split(','), ' '.split()",
    "'abc'.startswith('ab'), 'abc'.endswith(('x', 'bc')), 'abc'.find('c'), 'abc'.find('x'), 'aXbX'.replace('X', '', 1)",
    "'hello wORLD'.title(), 'hello'.upper(), 'HELLO'.lower(), 'hELLO x'.capitalize(), ','.join(['a', 'b']), 'abcb'.count('b')",
    "'a-b c_d it\\'s 3rd'.title(), 'a-b c_d'|title",
    "'12'.isdigit(), 'a1'.isalnum(), 'ab'.isalpha(), ' '.isspace()",
    "'a\\nb\\r\\nc'.splitlines(), '{} and {}'.format(1, 'x')",
    "'%s and %d' | format('y', 3)",
    "'  x ' | trim, 'xay' | trim('xy'), 'a' | upper, 'A' | lower, 'ab cd' | title, 'ab cd' | capitalize",
    "missing | default('d'), none | default('d'), none | default('d', true), missing | default(default_value='e'), missing | default, '' | default('d', boolean=true), 'x' | d('y')",
    "[3, 1, 2] | sort, [3, 1, 2] | sort(reverse=true), ['b', 'A'] | sort, [1, 2] | first, [1, 2] | last, [1, 2] | sum",
    "[1, 2, 3] | select('odd') | list, [1, 2, 3] | reject('odd') | list, [1, none] | select | list, [1, 2] | min, [1, 2] | max",
    "[1, 2, 3] | join, [1, 2] | join('-'), ['a', 'b'] | reverse | list, 'abc' | reverse, 'abc' | list, [[1, 2], [3]] | map('length') | list",
    "messages | map(attribute='name', default='-') | list, messages | groupby('role') | length, ['a', 'b'] | map('upper') | join",
    "5 | string, [1] | string, none | string, '5' | int, 'x' | int(7), '2.5' | float, 2.567 | round(1), -3 | abs, 3.0 | int",
    "'a\\nb' | indent(2), 'a\\nb' | indent(2, true), 'a\\n\\nb' | indent(width=2, first=false), 'abc' | replace('b', 'x')",
    "'<a>' | safe, '<a>' | string, ['a', 'b'] | length, 'abc' | length, 'abc' | count, {} | length",
    "range(3) | list, range(1, 7, 2) | list, range(3, 0, -1) | list",
    "missing.attribute",
    "missing + 'x'",
    "'x' + none",
    "'x' + 1",
    "missing == none, missing == '', not missing, missing | length, missing ~ 'x', (missing or 'y'), (none or false or 'z')",
    "raise_exception('No.')",
    "strftime_now('%Y') | length, strftime_now('%d %B %Y') is string",
    "[1, 2] + [3], [1, 2] == [1, 2], {'a': 1} == {'a': 1}, 1 == 1.0, '1' == 1, 'a' < 'b', 1 < 2 < 3",
    "namespace(a=1).a, namespace({'b': 2}).b",
    "(messages | last)['content'].strip().split('\\n')[0]",
    "[].append(1)",
    "messages[0].update({'role': 'x'})",
]


def rendered(template, messages, add_generation_prompt, thinking):
    options = {} if thinking is None else {"enable_thinking": thinking}
    try:
        texts, _ = render_jinja_template(
            [messages],
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            bos_token="<s>",
            eos_token="</s>",
            **options,
        )
        return texts[0]
    except Exception as error:
        print(f"raises {type(error).__name__}: {error}"[:120])
        return None


def cases():
    for name, template in CONVERSATIONS.items():
        for messages in TALKS:
            for thinking in [None, True, False] if "enable_thinking" in template else [None]:
                for add_generation_prompt in [True, False]:
                    yield name, template, messages, add_generation_prompt, thinking
    for expression in EXPRESSIONS:
        yield expression, "{{ " + " }}|{{ ".join(parts(expression)) + " }}", [SYSTEM, ASK, SAY], False, None


def parts(expression):
    """The expressions between the commas that are in no bracket or quotes."""
    found, depth, quote, escaped = [""], 0, None, False
    for symbol in expression:
        if quote:
            quote = None if symbol == quote and not escaped else quote
            escaped = symbol == "\\" and not escaped
        elif symbol in "'\"":
            quote = symbol
        depth += (symbol in "([{") - (symbol in ")]}") if not quote else 0
        if symbol == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += symbol
    return [part.strip() for part in found]


def main(output):
    written = []
    templates = {}
    for name, template, messages, add_generation_prompt, thinking in cases():
        templates[name] = template
        case = {"template": name, "messages": messages, "add_generation_prompt": add_generation_prompt}
        if thinking is not None:
            case["thinking"] = thinking
        written.append(case | {"expected": rendered(template, messages, add_generation_prompt, thinking)})
    lines = ",\n".join(json.dumps(case) for case in written)
    sources = ",\n".join(f"{json.dumps(name)}: {json.dumps(source)}" for name, source in templates.items())
    with open(output, "w", encoding="ascii") as file:
        file.write(f'{{"templates": {{\n{sources}\n}},\n"cases": [\n{lines}\n]}}\n')
    print(f"{len(templates)} templates, {len(written)} cases")


if __name__ == "__main__":
    main(*sys.argv[1:])
