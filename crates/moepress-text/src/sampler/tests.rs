//! Files as they are cut, and as they are refused.

use super::*;
use crate::toy::{checkpoint, tokenizer};
use moepress_checkpoint::{ErrorKind, OsFiles};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

const FIRST: Sampling = Sampling { window: 4, seed: None, bos: Bos::None, protocol: Protocol::Paper };
/// The token of [`crate::toy`] that stands for itself.
const END: u32 = 256;

/// A checkpoint with a beginning-of-sequence token and a chat template.
fn place() -> TempDir {
    let template = "{% for m in messages %}{{ bos_token }}{{ m.role[0] }}{{ m.content }}{% endfor %}";
    checkpoint(&[("tokenizer_config.json", r#"{"bos_token": "<|end|>"}"#), ("chat_template.jinja", template)])
}

/// Windows as they are cut, without what is scored of them.
#[derive(Debug, PartialEq)]
struct Cut {
    windows: Vec<Vec<u32>>,
    asked: usize,
    documents: usize,
}

fn sample(name: &str, text: &[u8], form: &Form, sampling: Sampling, count: usize) -> Result<Cut, TextError> {
    let Windows { windows, asked, documents } = scored(name, text, form, sampling, count)?;
    Ok(Cut { windows: windows.into_iter().map(|window| window.ids).collect(), asked, documents })
}

fn scored(
    name: &str,
    text: &[u8],
    form: &Form,
    sampling: Sampling,
    count: usize,
) -> Result<Windows, TextError> {
    let dir = place();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let tokenizer = tokenizer(dir.path()).unwrap();
    Sampler::open(&OsFiles, &tokenizer, sampling)?.sample(&path, form, count)
}

fn plain(text: &str, sampling: Sampling, count: usize) -> Cut {
    sample("a.txt", text.as_bytes(), &Form::Plain, sampling, count).unwrap()
}

fn texts() -> Form {
    Form::Lines("text".into())
}

fn lines(documents: &[&str]) -> Vec<u8> {
    documents.iter().map(|document| format!("{}\n", json!({ "text": document }))).collect::<String>().into()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn windows_do_not_overlap_and_drop_the_tail() {
    let cut = |count| plain("abcdefghij", FIRST, count);
    assert_eq!(cut(1).windows, [ids("abcd")]);
    assert_eq!(cut(9), Cut { windows: vec![ids("abcd"), ids("efgh")], asked: 9, documents: 1 });
    let short = sample("a.txt", b"abc", &Form::Plain, FIRST, 1).unwrap_err();
    assert!(short.to_string().contains("a.txt: 3 tokens, but one window needs 4"), "{short}");
    assert_eq!(short.kind(), ErrorKind::BadInput);
    let narrow = sample("a.txt", b"abc", &Form::Plain, Sampling { window: 1, ..FIRST }, 1).unwrap_err();
    assert_eq!(narrow.kind(), ErrorKind::Usage);
}

#[test]
fn documents_follow_each_other() {
    let file = lines(&["abc", "", "defgh", "ij"]);
    let cut = |count| sample("a.jsonl", &file, &texts(), FIRST, count).unwrap();
    assert_eq!(cut(9), Cut { windows: vec![ids("abcd"), ids("efgh")], asked: 9, documents: 3 });
    // Nothing after the last window is looked at.
    let torn = [&lines(&["abc", "de"])[..], b"{"].concat();
    let one = sample("a.jsonl", &torn, &texts(), FIRST, 1).unwrap();
    assert_eq!((one.windows, one.documents), (vec![ids("abcd")], 2));
    let error = sample("a.jsonl", &torn, &texts(), FIRST, 2).unwrap_err();
    assert!(error.to_string().contains("a.jsonl: line 3: EOF"), "{error}");
    // With a seed everything is.
    let drawn = sample("a.jsonl", &torn, &texts(), Sampling { seed: Some(1), ..FIRST }, 1).unwrap_err();
    assert!(drawn.to_string().contains("a.jsonl: line 3: EOF"), "{drawn}");
}

#[test]
fn one_text_is_the_same_in_any_file() {
    let text = "It was\na bright cold day in April, and the clocks were striking thirteen.";
    let split: Vec<&str> = text.split_inclusive('\n').collect();
    for bos in [Bos::None, Bos::Window, Bos::Document] {
        for seed in [None, Some(7)] {
            let sampling = Sampling { bos, seed, window: 8, ..FIRST };
            let from_text = plain(text, sampling, 3);
            assert_eq!(sample("a.jsonl", &lines(&[text]), &texts(), sampling, 3).unwrap(), from_text);
            if bos != Bos::Document {
                let parts = sample("a.jsonl", &lines(&split), &texts(), sampling, 3).unwrap();
                assert_eq!(parts.windows, from_text.windows);
            }
        }
    }
}

#[test]
fn the_first_token_is_where_it_was_asked_for() {
    let with = |bos| Sampling { bos, ..FIRST };
    let bos = |text: &str| [vec![END], ids(text)].concat();
    assert_eq!(plain("abcdefg", with(Bos::Window), 9).windows, [bos("abc"), bos("def")]);
    assert_eq!(plain("abcdefg", with(Bos::Document), 9).windows, [bos("abc"), ids("defg")]);
    let cut = |bos| sample("a.jsonl", &lines(&["ab", "cde", ""]), &texts(), with(bos), 9).unwrap().windows;
    assert_eq!(cut(Bos::Window), [bos("abc")]);
    assert_eq!(cut(Bos::Document), [[END, 97, 98, END]]);
    // A text that begins with the token keeps its own.
    assert_eq!(
        plain("<|end|>abcde<|end|>fg", with(Bos::Window), 9).windows,
        [bos("abc"), bos("de\u{0}")[..3].to_vec().into_iter().chain([END]).collect()]
    );
    assert_eq!(plain("<|end|>abcdefg", with(Bos::Document), 9).windows, [bos("abc"), ids("defg")]);
}

#[test]
fn what_is_scored_is_told_with_its_bytes() {
    let cut = |text: &str, bos, protocol| {
        let sampling = Sampling { bos, protocol, ..FIRST };
        let cut = scored("a.txt", text.as_bytes(), &Form::Plain, sampling, 9).unwrap();
        cut.windows.into_iter().map(|w| (w.ids, w.first, w.bytes)).collect::<Vec<_>>()
    };
    let bos = |text: &str| [vec![END], ids(text)].concat();
    assert_eq!(cut("abcdefghi", Bos::None, Protocol::Paper), [(ids("abcd"), 1, 3), (ids("efgh"), 1, 3)]);
    // The token that is put before a window stands for none of its bytes.
    assert_eq!(cut("abcdef", Bos::Window, Protocol::Paper), [(bos("abc"), 1, 3), (bos("def"), 1, 3)]);
    assert_eq!(cut("abcdefg", Bos::Document, Protocol::Paper), [(bos("abc"), 1, 3), (ids("defg"), 1, 3)]);
    // It takes the place of the first token: `d` is gone.
    let llama = [(bos("abc"), 3, 1), (bos("efg"), 3, 1)];
    assert_eq!(cut("abcdefg", Bos::Document, Protocol::LlamaCpp), llama);
    assert_eq!(cut("abcdefg", Bos::None, Protocol::LlamaCpp), [(ids("abcd"), 3, 1)]);
    let strided = [(ids("abcd"), 1, 3), (ids("cdef"), 2, 2), (ids("efg"), 2, 1)];
    assert_eq!(cut("abcdefg", Bos::None, Protocol::Strided(2)), strided);
    // Characters of several bytes, one token each; what is trimmed from offsets is counted all the same.
    let all = |text: &str| cut(text, Bos::None, Protocol::Strided(1)).iter().map(|w| w.2).sum::<u64>();
    for text in ["xüü", "x a  b\n\n", "x\n\n  \n y ü "] {
        assert_eq!(all(text), text.len() as u64 - 1, "{text:?}");
    }
}

#[test]
fn the_tokenizer_says_whether_texts_begin_with_a_token() {
    let open = |config: &str, post: serde_json::Value| {
        let dir = checkpoint(&[("tokenizer_config.json", config)]);
        let mut tokenizer: serde_json::Value = crate::toy::bytes();
        tokenizer["post_processor"] = post;
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokenizer = crate::toy::tokenizer(dir.path())?;
        let sampler = Sampler::open(&OsFiles, &tokenizer, Sampling { bos: Bos::Auto, ..FIRST })?;
        Ok::<_, TextError>((sampler.bos(), sampler.bos))
    };
    let adds = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<|end|>":
        {"id": "<|end|>", "ids": [256], "tokens": ["<|end|>"]}}});
    let (yes, no) = ((Bos::Document, Some(END)), (Bos::None, None));
    let config = r#"{"bos_token": "<|end|>"}"#;
    assert_eq!(open(config, json!(null)).unwrap(), no);
    assert_eq!(open(config, adds.clone()).unwrap(), yes);
    assert_eq!(open("{}", adds.clone()).unwrap(), no);
    assert_eq!(open(r#"{"bos_token": "<|end|>", "add_bos_token": true}"#, json!(null)).unwrap(), yes);
    assert_eq!(open(r#"{"bos_token": "<|end|>", "add_bos_token": false}"#, adds).unwrap(), no);
    let error = open(r#"{"add_bos_token": 1}"#, json!(null)).unwrap_err().to_string();
    assert!(error.ends_with("add_bos_token: is neither true nor false"), "{error}");
    assert!(open(r#"{"add_bos_token": true}"#, json!(null)).is_err());
}

#[test]
fn chats_become_what_the_template_makes_of_them() {
    let chat = br#"{"id": 3, "messages": [{"role": "user", "content": "ab"}, {"role": "system", "content": "<|end|>"}]}"#;
    let cut =
        |bos| sample("a.jsonl", chat, &Form::Chats("messages".into()), Sampling { bos, ..FIRST }, 9).unwrap();
    let text = [vec![END, 117, 97, 98], vec![END, 115, END]];
    assert_eq!(cut(Bos::None), Cut { windows: text[..1].to_vec(), asked: 9, documents: 1 });
    // The template has put the token there already.
    assert_eq!(cut(Bos::Document), cut(Bos::None));
    let wrong = |line: &str| {
        let text = format!("\n{line}\n");
        let error = sample("a.jsonl", text.as_bytes(), &Form::Chats("m".into()), FIRST, 1).unwrap_err();
        assert_eq!((error.kind(), error.to_string().lines().count()), (ErrorKind::BadInput, 1));
        error.to_string().rsplit_once("a.jsonl: ").unwrap().1.to_owned()
    };
    assert_eq!(
        wrong(r#"{"m": "user: a"}"#),
        r#"line 2: is no list of messages such as {"role": "user", "content": "Hello"}"#
    );
    assert!(
        wrong(r#"{"messages": []}"#).starts_with("line 2: has no field \"m\" (it has messages; the recipe")
    );
    assert_eq!(
        wrong(r#"{"m": [{"role": "", "content": 1}]}"#),
        "line 2: message 0 has no text as its `content`"
    );
}

#[test]
fn wrong_documents_are_refused_with_their_line() {
    let cases: [(&[u8], &str); 6] = [
        (
            b"{\"text\":\"a\"}\n\n{\"txt\":\"a\"}",
            "line 3: has no field \"text\" (it has txt; the recipe names it",
        ),
        (b"{\"text\":3}", "line 1: field \"text\" is no text"),
        (b"{\"text\":\"a\"}\n{\"text\":\"\\ud800\"}", "line 2: unexpected end of hex escape"),
        (b"{\"text\":\"\xff\"}", "line 1: not UTF-8"),
        (b"", "a.jsonl: 0 tokens, but one window needs 4"),
        (b" \n\n", "a.jsonl: 0 tokens, but one window needs 4"),
    ];
    for (text, reason) in cases {
        let error = sample("a.jsonl", text, &texts(), FIRST, 1).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!((error.kind(), error.to_string().lines().count()), (ErrorKind::BadInput, 1));
    }
}

#[test]
fn a_token_that_is_asked_for_must_be_there() {
    let open = |files: &[(&str, &str)]| {
        let dir = checkpoint(files);
        let tokenizer = tokenizer(dir.path()).unwrap();
        let sampler = Sampler::open(&OsFiles, &tokenizer, Sampling { bos: Bos::Window, ..FIRST });
        sampler.map(|sampler| sampler.bos.unwrap()).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::BadInput);
            error.to_string().rsplit_once('/').unwrap().1.to_owned()
        })
    };
    let config = "tokenizer_config.json";
    assert_eq!(open(&[(config, r#"{"bos_token": {"content": "<|end|>", "lstrip": false}}"#)]), Ok(END));
    assert_eq!(open(&[(config, r#"{"bos_token": "a"}"#), ("config.json", r#"{"bos_token_id": 3}"#)]), Ok(97));
    assert_eq!(open(&[(config, r#"{"bos_token": null}"#), ("config.json", r#"{"bos_token_id": 3}"#)]), Ok(3));
    let both = [
        ("config.json", r#"{"bos_token_id": null}"#),
        ("generation_config.json", r#"{"bos_token_id": 256}"#),
    ];
    assert_eq!(open(&both), Ok(END));
    let error = |files: &[(&str, &str)]| open(files).unwrap_err();
    assert!(
        error(&[]).starts_with("tokenizer_config.json: bos_token: is missing, and so is bos_token_id of")
    );
    assert_eq!(
        error(&[(config, r#"{"bos_token": "<s>"}"#)]),
        "tokenizer_config.json: bos_token: \"<s>\" is no token of tokenizer.json"
    );
    assert!(error(&[(config, r#"{"bos_token": 3}"#)]).contains("bos_token: is neither text nor an object"));
    for id in ["257", "-1", "4294967296", "\"a\"", "[1]"] {
        let text = format!("{{\"bos_token_id\": {id}}}");
        let reason = error(&[("config.json", &text)]);
        assert_eq!(reason, format!("config.json: bos_token_id: {id} is no token of tokenizer.json"));
    }
}

proptest! {
    #[test]
    fn drawn_windows_are_windows(text in "[a-z]{40,120}", window in 2usize..9, count in 1usize..20, seed: u64, before: bool) {
        let bos = if before { Bos::Window } else { Bos::None };
        let all = plain(&text, Sampling { window, bos, ..FIRST }, usize::MAX).windows;
        let sampling = Sampling { window, bos, seed: Some(seed), ..FIRST };
        let drawn = plain(&text, sampling, count).windows;
        prop_assert_eq!(drawn.len(), count.min(all.len()));
        prop_assert!(drawn.iter().all(|tokens| tokens.len() == window));
        // A subsequence of all windows: in order, and none twice.
        let mut rest = all.iter();
        prop_assert!(drawn.iter().all(|tokens| rest.any(|other| other == tokens)));
        prop_assert_eq!(drawn, plain(&text, sampling, count).windows);
    }
}

#[test]
fn a_text_too_large_for_the_memory_is_refused() {
    assert!(enough_memory(Path::new("a"), 1 << 50).is_err());
    assert!(enough_memory(Path::new("a"), 1 << 10).is_ok());
    let error = TextError::Memory { file: "a.txt".into(), needed: 9, available: 3 };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}
