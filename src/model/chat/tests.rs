use super::*;

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
    {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

fn render(source: &str, messages: &[Message]) -> Result<String> {
    ChatTemplate::new(source)?.render(messages, true, "<s>", "</s>")
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
    ] {
        assert_eq!(text(source), expected, "{source}");
    }
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
}

#[test]
fn broken_templates_are_refused() {
    for source in ["{% if %}", "{{ ", "{% for x in y %}", "{{ x | nothing_known }}", "{{ a.b.c }}"]
    {
        assert!(failure(source).starts_with("the chat template"), "{source}");
    }
    let nested = format!("{{{{ {}", "(".repeat(100_000));
    assert!(failure(&nested).starts_with("the chat template"));
    assert!(failure(&" ".repeat(LONGEST + 1)).contains("1048577 bytes, but at most 1048576"));
}
