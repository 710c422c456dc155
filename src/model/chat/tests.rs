use super::*;
use serde_json::json;

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
    {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn render(source: &str, messages: &[Message]) -> Result<String> {
    ChatTemplate::new(source)?.render(messages, true, "<s>", "</s>")
}

fn thinking(source: &str, enabled: Option<bool>, messages: &[Message]) -> String {
    let mut template = ChatTemplate::new(source).unwrap();
    if let Some(enabled) = enabled {
        template.set_thinking(enabled).unwrap();
    }
    template.render(messages, true, "", "").unwrap()
}

fn text(source: &str) -> String {
    render(source, &[message("user", " Hi ")]).unwrap()
}

fn failure(source: &str) -> String {
    match render(source, &[message("user", "Hi")]) {
        Err(Error::Model(message)) => message,
        other => panic!("{other:?} is not a refusal"),
    }
}

#[test]
fn chatml() {
    let template = ChatTemplate::new(CHATML).unwrap();
    let messages = [message("system", "Be <b>brief</b> & \"kind\"."), message("user", "{{ 1 }}")];
    assert_eq!(
        template.render(&messages, true, "", "").unwrap(),
        "<|im_start|>system\nBe <b>brief</b> & \"kind\".<|im_end|>\n\
         <|im_start|>user\n{{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        template.render(&messages[1..], false, "", "").unwrap(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
         <|im_end|>\n<|im_start|>user\n{{ 1 }}<|im_end|>\n"
    );
    assert_eq!(template.render(&[], false, "", "").unwrap(), "");
}

#[test]
fn blocks_are_trimmed_as_transformers_do() {
    let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m.content | trim }}]\n    {% endif %}\n{%- endfor %}\n{{ eos_token }}\n";
    assert_eq!(text(source), "<s>\n[Hi]\n</s>");
}

#[test]
fn python_methods_and_slices() {
    for (source, expected) in [
        ("{{ messages[0].content.strip() }}", "Hi"),
        ("{{ messages[0]['content'].rstrip().lstrip() }}", "Hi"),
        ("{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}", "b"),
        ("{{ 'abc'.startswith('ab') and not 'abc'.endswith('x') }}", "True"),
        ("{{ messages[0].get('role', 'x') }}{{ messages[0].get('name', 'x') }}", "userx"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% for m in [1, 2, 3][::-1] %}{{ m }}{% endfor %}", "321"),
        ("{{ [1, 2, 3][1:] | length }}", "2"),
        ("{{ 'a-b'.replace('-', '+').upper() }}", "A+B"),
        ("{% if tools is none and not missing is defined %}ok{% endif %}", "ok"),
        ("{% if tools %}no{% endif %}{{ missing }}ok", "ok"),
        ("{% if tools %}{{ tools | tojson }}{% endif %}ok", "ok"),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('&') }}", "<&>"),
        ("{{ '\\n\\na\\n'.strip('\\n') }}{{ ' b '.lstrip() }}.", "ab ."),
        ("{{ '<t>x</t>y'.split('</t>')[0].split('<t>')[-1] }}", "x"),
        ("{% if messages[0].content is string and not messages is string %}ok{% endif %}", "ok"),
        ("{% if messages is iterable and messages is not mapping %}ok{% endif %}", "ok"),
        (
            "{% if messages[0].other is defined and messages[0].other is not none %}no{% endif %}ok",
            "ok",
        ),
        ("{% if messages[0].calls %}no{% endif %}{{ messages[0].role in ['user', 'x'] }}", "True"),
        ("{{ (messages[0].content ~ '<é\\n') | tojson(ensure_ascii=false) }}", "\" Hi <é\\n\""),
        ("{% if tools %}{{ tools | tojson(ensure_ascii=False) }}{% endif %}ok", "ok"),
        (
            "{% for i in 'abc' %}{{ loop.previtem | default('-') }}{{ loop.nextitem }}{% endfor %}",
            "-bacb",
        ),
        ("{{ messages | length - 1 }}{{ messages[-1].role }}", "0user"),
    ] {
        assert_eq!(text(source), expected, "{source}");
    }
}

/// The constructs of Qwen3's: a namespace filled by walking backwards, thoughts cut from earlier
/// answers, and an empty thought where there shall be none.
const BACKWARDS: &str = r#"
{%- set ns = namespace(last=messages|length - 1, open=true) %}
{%- for m in messages[::-1] %}
    {%- set at = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and m.role == "user" and not (m.content.startswith('[r]') and m.content.endswith('[/r]')) %}
        {%- set ns.open = false %}
        {%- set ns.last = at %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- set thought = '' %}
    {%- if m.thought is defined and m.thought is not none %}
        {%- set thought = m.thought %}
    {%- elif m.role == 'assistant' and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<' + m.role + '>' }}
    {%- if loop.index0 > ns.last and thought %}{{- '(' + thought.strip('\n') + ')' }}{% endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"#;

/// The constructs of GLM-4.7's: a prefix as plain text, a macro for contents, an expression
/// without a loop for the beginning of the thought.
const MACRO: &str = r#"[gMASK]<sop>
{%- macro shown(content) -%}
    {%- if content is string -%}{{- content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}{{- item.text if item is mapping else item }}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{% for m in messages %}
{%- if m.role == 'assistant' -%}<|assistant|>{{ '</think>' }}
    {%- set content = shown(m.content) %}
    {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
    {{- content.strip() }}
{%- else -%}<|{{ m.role }}|>{{ shown(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|assistant|>{{- '</think>' if (enable_thinking is defined and not enable_thinking) else '<think>' -}}
{%- endif -%}
"#;

#[test]
fn thoughts_stay_out_of_earlier_turns_and_can_be_turned_off() {
    let messages = [
        message("user", "Hi"),
        message("assistant", "<think>\nA greeting.\n</think>\n\nHello."),
        message("user", "[r]Go on.[/r]"),
    ];
    let turns = "<user>Hi<assistant>(A greeting.)Hello.<user>[r]Go on.[/r]<assistant>\n";
    for (enabled, end) in [(None, ""), (Some(true), ""), (Some(false), "<think>\n\n</think>\n\n")] {
        assert_eq!(thinking(BACKWARDS, enabled, &messages), format!("{turns}{end}"));
    }
    let turns =
        "[gMASK]<sop><|user|>Hi<|assistant|></think>Hello.<|user|>[r]Go on.[/r]<|assistant|>";
    for (enabled, end) in [(None, "<think>"), (Some(true), "<think>"), (Some(false), "</think>")] {
        assert_eq!(thinking(MACRO, enabled, &messages), format!("{turns}{end}"));
    }
}

/// The constructs of Qwen3's with tools, and of its calls.
const TOOLS: &str = "{%- if tools %}{{- '<|im_start|>system\\n# Tools' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}\
    {%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}\
    {%- if message.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}\
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}{%- if message.tool_calls %}\
    {%- for tool_call in message.tool_calls %}{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}\
    {{- '<tool_call>\\n{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}\
    {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}\
    {{- '}\\n</tool_call>' }}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}";

fn tool(description: &str) -> serde_json::Value {
    let parameters = json!({"type": "object", "properties": {"z": {"type": "string"}, "a": {}}});
    json!({"type": "function", "function": {"name": "f", "description": description, "parameters": parameters}})
}

fn called(argument: &str) -> [Message; 3] {
    let function = json!({"name": "f", "arguments": {"z": argument, "a": 1}});
    let calls = json!([{"id": "abc", "type": "function", "function": function}]);
    let fields = |value: serde_json::Value| value.as_object().unwrap().clone();
    [
        message("user", "Hi"),
        Message { fields: fields(json!({"tool_calls": calls})), ..message("assistant", "Hm.") },
        Message { fields: fields(json!({"tool_call_id": "abc"})), ..message("tool", "3") },
    ]
}

#[test]
fn tools_and_calls_go_through_the_template() {
    let template = ChatTemplate::new(TOOLS).unwrap();
    let said = Said { messages: &called("x"), tools: &[tool("d")] };
    assert_eq!(
        template.render_said(said, false, "", "").unwrap(),
        "<|im_start|>system\n# Tools\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\", \
         \"parameters\": {\"type\": \"object\", \"properties\": {\"z\": {\"type\": \"string\"}, \"a\": {}}}}}<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHm.<tool_call>\n\
         {\"name\": \"f\", \"arguments\": {\"z\": \"x\", \"a\": 1}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
    );
}

#[cfg(feature = "server")]
#[test]
fn a_template_says_whether_it_takes_tools() {
    for (source, takes) in [(TOOLS, true), (CHATML, false), (BACKWARDS, false)] {
        let template = ChatTemplate::new(source).unwrap();
        assert_eq!(template.takes_tools(), takes, "{source}");
        assert_eq!(template.source(), source);
    }
    assert!(!ChatTemplate::new("{{ raise_exception('no') }}").unwrap().takes_tools());
}

#[test]
fn control_tokens_in_tools_and_calls_are_text() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
    let tokenizer = Tokenizer::from_folder(folder.as_ref()).unwrap();
    let template = ChatTemplate::new(TOOLS).unwrap();
    let end = tokenizer.encode("<|im_end|>", true).unwrap()[0];
    let ends = |argument: &str, description: &str| {
        let ids = template
            .encode_with_tools(&tokenizer, &called(argument), &[tool(description)])
            .unwrap();
        let text = tokenizer.decode(&ids);
        assert!(text.contains(argument) && text.contains(description), "{text}");
        ids.iter().filter(|id| **id == end).count()
    };
    assert_eq!(ends("x", "d"), 4);
    assert_eq!(ends("<|im_end|>", "d <|im_end|>\u{e000} e"), 4);
}

#[test]
fn a_template_may_give_the_switch_a_default_of_its_own() {
    let source = "{% set enable_thinking = enable_thinking if enable_thinking is defined else true %}\
        {{ messages[0].content }}{{ '<think>' if enable_thinking else '' }}";
    for (enabled, expected) in [(None, "Hi<think>"), (Some(true), "Hi<think>"), (Some(false), "Hi")]
    {
        assert_eq!(thinking(source, enabled, &[message("user", "Hi")]), expected);
    }
}

#[test]
fn thinking_needs_a_template_that_knows_it() {
    for source in
        [CHATML, "{# enable_thinking #}x", "{% set enable_thinking = true %}{{ enable_thinking }}"]
    {
        let error = ChatTemplate::new(source).unwrap().set_thinking(false).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("thinking is turned off, but the chat template does not mention"),
            "{error}"
        );
    }
}

#[test]
fn templates_of_folders() {
    let read = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        ChatTemplate::from_folder(folder.path())
    };
    let config = |content: &'static str| ("tokenizer_config.json", content);
    let jinja = ("chat_template.jinja", "own file");
    let text = config(r#"{"chat_template": "in config"}"#);
    let list = config(
        r#"{"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}"#,
    );
    for (files, expected) in
        [(&[jinja, text][..], "own file"), (&[text], "in config"), (&[list], "b")]
    {
        let template = read(files).unwrap().expect("a template");
        assert_eq!(template.render(&[], false, "", "").unwrap(), expected);
    }
    for files in [&[][..], &[config("{}")], &[config(r#"{"chat_template": null}"#)]] {
        assert!(read(files).unwrap().is_none());
    }
    for (file, parts) in [
        (
            config(r#"{"chat_template": 7}"#),
            ["tokenizer_config.json: chat_template is neither", ""],
        ),
        (config(r#"{"chat_template": [{"name": "tools", "template": "a"}]}"#), ["\"default\"", ""]),
        (
            config(r#"{"chat_template": "{% if"}"#),
            ["tokenizer_config.json: the chat template", "line 1"],
        ),
        (config("{"), ["tokenizer_config.json: EOF", ""]),
        (("chat_template.jinja", "{% if %}"), ["chat_template.jinja: the chat template", "line 1"]),
    ] {
        let message = read(&[file]).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
    let long = " ".repeat(LONGEST + 1);
    let message = read(&[("chat_template.jinja", &long)]).unwrap_err().to_string();
    assert!(message.contains("chat_template.jinja: it has more than 131072 bytes"), "{message}");
}

#[test]
fn exceptions_say_what_the_template_says() {
    let source = "\n{% if true %}\n{{ raise_exception('Roles must alternate!') }}\n{% endif %}";
    assert_eq!(failure(source), "the chat template (line 3): Roles must alternate!");
}

#[test]
fn today() {
    let year: i32 = text("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!(year >= 2024, "{year}");
    assert_eq!(text("{{ strftime_now('%d %b %Y') }}").len(), "01 Jan 2024".len());
    failure("{{ strftime_now('%!') }}");
}

#[test]
fn templates_that_never_end_are_stopped() {
    let count = "range(90000)";
    let nested =
        format!("{{% for a in {count} %}}{{% for b in {count} %}}{{% endfor %}}{{% endfor %}}");
    assert!(failure(&nested).contains("may never end"));
    failure("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    failure("{% for a in range(1000000000000) %}{% endfor %}");
    failure("{{ 'a' * 1000000000000000 }}");
    let double = "{% set ns = namespace(x=['abc']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    failure(&format!("{double}{{{{ ns.x | tojson }}}}"));
    failure(&format!("{}{{{{ ns.x | tojson }}}}", double.replace("60", "30")));
}

#[test]
fn templates_that_nest_as_deep_as_they_can_are_an_error_or_a_text() {
    let whole = |before: &str, unit: &str, after: &str| {
        let count = (LONGEST - before.len() - after.len()) / unit.len();
        format!("{before}{}{after}", unit.repeat(count))
    };
    // Compiled, asked for what it mentions and rendered; it must only come back.
    for source in [
        whole("{{ ", "-", "1 }}"),
        whole("{{ ", "not ", "1 }}"),
        whole("{{ ", "1+", "1 }}"),
        whole("{{ ", "1**", "1 }}"),
        whole("{{ ", "1 and ", "1 }}"),
        whole("{{ ", "0 if 0 else ", "1 }}"),
        whole("{{ x", ".a", " }}"),
        whole("{{ x", "|d", " }}"),
        whole("{{ x", "()", " }}"),
        whole("{{ ", "[", ""),
        whole("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        whole("", "{% if 1 %}", ""),
        whole("", "{% for a in b %}", ""),
        whole("", "{% macro f() %}", ""),
    ] {
        if let Ok(mut template) = ChatTemplate::new(&source) {
            let _ = template.set_thinking(true);
            let _ = template.render(&[], false, "", "");
        }
    }
}

#[test]
fn values_that_nest_as_deep_as_they_can_are_an_error_or_a_text() {
    let nested = |count: usize, end: &str| {
        format!(
            "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range({count}) %}}{{% for j in range(1000) %}}\
             {{% set ns.x = [ns.x] %}}{{% set ns.y = {{'a': ns.y}} %}}{{% endfor %}}{{% endfor %}}{end}"
        )
    };
    assert!(failure(&nested(90_000, "")).contains("may never end"));
    assert_eq!(text(&nested(50, "{{ ns.x == ns.y }}")), "False");
    assert_eq!(text(&nested(50, "{{ ns.x | string | length > 0 }}")), "True");
    for end in ["{{ ns.x ~ ns.y }}", "{{ [ns.x, ns.y] | sort }}", "{{ {ns.x: 1} }}"] {
        let template = ChatTemplate::new(&nested(50, end)).unwrap();
        let _ = template.render(&[], false, "", "");
    }
    for end in ["{{ ns.x | tojson }}", "{{ ns.y | pprint }}"] {
        failure(&nested(50, end));
    }
}

#[test]
fn templates_that_call_themselves_are_refused() {
    for source in [
        "{% macro f(x) %}{% for i in [1] %}{{ [f([x])] | join }}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in [[1]] recursive %}{{ loop([i]) }}{% endfor %}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
    ] {
        let refused = ChatTemplate::new(source)
            .and_then(|template| template.render(&[], false, "", ""))
            .unwrap_err()
            .to_string();
        assert!(refused.starts_with("the chat template"), "{refused}");
    }
}

#[test]
fn broken_templates_are_refused() {
    for source in [
        "{% if %}",
        "{{ ",
        "{% for x in y %}",
        "{{ x | nothing_known }}",
        "{{ a.b.c }}",
        "{{ missing | tojson }}",
        "{{ messages | tojson(separators=[1]) }}",
        "{{ messages | tojson(colour=1) }}",
    ] {
        assert!(failure(source).starts_with("the chat template"), "{source}");
    }
    let nested = format!("{{{{ {}", "(".repeat(100_000));
    assert!(failure(&nested).starts_with("the chat template"));
    assert!(failure(&" ".repeat(LONGEST + 1)).contains("131073 bytes, but at most 131072"));
}
