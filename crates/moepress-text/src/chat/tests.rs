//! Templates as checkpoints have them; the expected texts are those of Jinja2 as transformers sets it up.

use super::*;
use crate::toy::checkpoint;
use moepress_checkpoint::OsFiles;
use serde_json::json;

fn open(template: &str) -> Result<ChatTemplate, String> {
    let dir = checkpoint(&[
        ("chat_template.jinja", template),
        ("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#),
    ]);
    ChatTemplate::open(&OsFiles, dir.path())
        .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

fn render(template: &str, messages: &str) -> Result<String, String> {
    let place = |error: String| error.rsplit_once('/').map_or(error.clone(), |(_, rest)| rest.to_owned());
    open(template)?.render(&serde_json::from_str::<Value>(messages).unwrap()).map_err(place)
}

const CHAT: &str = r#"[
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "<b> & 'é'"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", "zeta": [1, 2.5, {}], "alpha": {"x": null, "a": true}}
]"#;

#[test]
fn a_template_of_blocks() {
    let template = r"
{%- for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
<|im_start|>system
    {% endif %}
    {{ '<|im_start|>' + message.role + '\n' + message['content'] | trim + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
";
    let text = "    <|im_start|>system\nBe brief.<|im_end|>\n    <|im_start|>user\n<b> & 'é'<|im_end|>\n    \
                <|im_start|>assistant\n<think>\nhm\n</think>\n\nYes.<|im_end|>\n";
    assert_eq!(render(template, CHAT).unwrap(), text);
    assert_eq!(render(&template.replace('\n', "\r\n"), CHAT).unwrap(), text);
}

#[test]
fn a_template_with_what_python_has() {
    let template = r#"{{- bos_token }}{% set ns = namespace(last=-1, seen=[]) -%}
{%- for message in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}
{%- if ns.last < 0 and message.role == "user" and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}{% set ns.last = index %}{% endif %}{% endfor %}
{%- macro show(m, mark='|') %}{{ mark }}{{ m.content.split('</think>')[-1].lstrip('\n').upper() }}{% endmacro %}
{%- for m in messages %}{% if m is mapping and m.content is string and m.role in ['user', 'assistant'] -%}
{{ show(m) }}{% if m.zeta is defined and m.get('alpha') %}{{ m.zeta|tojson }}{{ m.alpha | tojson(indent=2) }}{% for k, v in m.alpha.items() %}{{ k }}={{ v }};{% endfor %}{% endif %}
{%- if loop.last %}{% continue %}{% endif %}{{ loop.nextitem.role }}{% else -%}
[{{ m.content.strip() ~ 1 }}]{% endif %}{% endfor %}{{ ns.last }}{{ messages[1:]|map(attribute='role')|join(',') }}
{{- missing }}{{ eos_token }}"#;
    let text = "<s>[Be brief.1]|<B> & 'É'assistant|YES.[1, 2.5, {}]{\n  \"x\": null,\n  \"a\": true\n}x=None;a=True;\
                1user,assistant</s>";
    assert_eq!(render(template, CHAT).unwrap(), text);
}

#[test]
fn marks_of_replies_change_nothing() {
    let marked = "{% for m in messages %}\n{%- generation %}\n{{ m.role }} {% endgeneration -%}\n\n{% endfor %}{{ 'generation' }}{%";
    assert_eq!(render(&marked[..marked.len() - 2], CHAT).unwrap(), "system user assistant generation");
    assert!(render(marked, CHAT).unwrap_err().contains("syntax error"));
}

#[test]
fn the_date_does_not_change() {
    let template = "{{ strftime_now('%d %b %Y') }}{% if strftime_now is defined %}, {{ strftime_now('%A %-d %B') }}{% endif %}";
    assert_eq!(render(template, CHAT).unwrap(), "26 Jul 2024, Friday 26 July");
    let error = render("{{ strftime_now('%Q') }}", CHAT).unwrap_err();
    assert_eq!(error, "chat_template.jinja: line 1: strftime_now does not know the format \"%Q\"");
}

#[test]
fn broken_templates_are_found_in_their_line() {
    for (template, reason) in [
        ("a\n{% if %}", "chat_template.jinja: template: line 2: syntax error: unexpected end of block"),
        ("{{ 'a", "chat_template.jinja: template: line 1: syntax error: unexpected end of string"),
        ("{% include 'config.json' %}", "line 1: syntax error: unknown statement include"),
        ("{% import 'x' as y %}", "line 1: syntax error: unknown statement import"),
        (
            "{% for m in messages %}\n\n{{ raise_exception('roles must\nalternate') }}{% endfor %}",
            "chat_template.jinja: line 3: roles must\nalternate",
        ),
        ("{{ messages.foo.bar }}", "chat_template.jinja: line 1: undefined value"),
        ("\n{{ messages[0].content.frobnicate() }}", "chat_template.jinja: line 2: unknown method: "),
        ("{{ open('x') }}", "line 1: unknown function: open is unknown"),
        ("{{ messages | tojson(indent=99) }}", "line 1: tojson: indent is above 16"),
        ("{{ messages | tojson(sort_keys=true) }}", "line 1: too many arguments: unknown keyword argument"),
    ] {
        let error = render(template, CHAT).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(open(&deep).err().unwrap().contains("recursion"), "parsing has a limit");
    // Long chains are deep programs.
    for [start, link, end] in [
        ["{{ messages[0]", "[0]", "}}"],
        ["{{ 1", "+1", "}}"],
        ["{{ 1", "|string", "}}"],
        ["{% if a %}", "{% elif a %}", "{% endif %}"],
    ] {
        let links = (MAX_BYTES - 40) / link.len();
        let _ = render(&[start, &link.repeat(links), end].concat(), CHAT);
    }
    let long = open(&" ".repeat(MAX_BYTES + 1)).err().unwrap();
    assert!(long.starts_with("chat_template.jinja: file: 262145 bytes, more than the 262144"), "{long}");
}

/// Programs that would take all time, memory or stack.
#[test]
fn a_template_is_stopped() {
    let doubled = "{% set a = a ~ a %}".repeat(60);
    let nested = "{% set a = [a, a] %}".repeat(60);
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{{ messages }}{{ 'x' * 9999 }}{% endfor %}".to_owned(),
        "{{ 'x' * 100000000000 }}".to_owned(),
        "{{ 'x' * 99999999 }}".repeat(9),
        format!("{{% set a = 'x' %}}{doubled}"),
        format!("{{% set a = 'x' %}}{nested}{{{{ a }}}}"),
        format!("{{% set a = 'x' %}}{nested}{{{{ a | tojson }}}}"),
        "{% set ns = namespace(a=1) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ raise_exception('deep') }}".to_owned(),
        "{{ messages[0].content | indent(999999999999) }}".to_owned(),
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{{ messages[0].content.replace('', 'x' * 9999999) }}".to_owned(),
        "{{ '%9999999999d' | format(1) }}".to_owned(),
    ] {
        let error = render(&template, CHAT).unwrap_err();
        assert!(error.len() < 300, "{error}");
    }
}

#[test]
fn messages_have_a_role_and_a_content() {
    for (messages, reason) in [
        ("3", "is no list of messages such as {\"role\""),
        ("\"user\"", "is no list of messages"),
        ("{\"role\": \"user\", \"content\": \"a\"}", "is no list of messages"),
        ("[]", "has no messages"),
        ("[\"a\"]", "message 0 has no text as its `role`"),
        (
            "[{\"role\": \"user\", \"content\": \"a\"}, {\"content\": \"a\"}]",
            "message 1 has no text as its `role`",
        ),
        ("[{\"role\": \"user\", \"content\": [\"a\"]}]", "message 0 has no text as its `content`"),
        ("[{\"role\": \"user\", \"content\": null}]", "message 0 has no text as its `content`"),
    ] {
        let error = render("x", messages).unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn a_template_is_looked_for_in_two_files() {
    let find = |files: &[(&str, &str)]| {
        let dir = checkpoint(files);
        let opened = ChatTemplate::open(&OsFiles, dir.path());
        let chat = serde_json::from_str::<Value>(r#"[{"role": "user", "content": "c"}]"#).unwrap();
        match opened {
            Ok(template) => template.render(&chat).unwrap(),
            Err(error) => error.to_string().rsplit_once('/').unwrap().1.to_owned(),
        }
    };
    let config = |value: serde_json::Value| json!({ "chat_template": value }).to_string();
    let file = ("chat_template.jinja", "file");
    let named = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]);
    let field = |value| config(value);
    assert_eq!(find(&[("tokenizer_config.json", &field("one".into()))]), "one");
    assert_eq!(find(&[("tokenizer_config.json", &field(named))]), "named");
    assert_eq!(find(&[("tokenizer_config.json", &field("one".into())), file]), "file");
    assert_eq!(find(&[file]), "file");
    let missing = "tokenizer_config.json: chat_template: is missing, and so is chat_template.jinja, but a chat needs a template";
    assert_eq!(find(&[]), missing);
    assert_eq!(find(&[("tokenizer_config.json", &field(json!([])))]), missing);
    assert_eq!(find(&[("tokenizer_config.json", &field(json!(null)))]), missing);
    let wrong = "tokenizer_config.json: chat_template: is neither text nor a list of templates by name";
    assert_eq!(find(&[("tokenizer_config.json", &field(json!(3)))]), wrong);
    let broken = find(&[("tokenizer_config.json", &field("{{".into()))]);
    assert!(broken.starts_with("tokenizer_config.json: chat_template: line 1: syntax error"), "{broken}");
    assert!(find(&[("tokenizer_config.json", "[")]).starts_with("tokenizer_config.json: JSON: "));
}
