//! `moepress serve`, driven by lm-evaluation-harness, by OpenAI's client, and by whoever means it no good.

#![allow(clippy::unwrap_used, clippy::panic)]

#[expect(dead_code, reason = "shared with other tests")]
mod common;

use common::{demo, json, root};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A server that runs.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(model: &Path, more: &[&str], token: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moepress"));
        command.arg("serve").arg(model).args(["--port", "0", "--name", "demo", "--json"]).args(more);
        token.map(|token| command.env("MOEPRESS_TOKEN", token));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let documents = serde_json::Deserializer::from_reader(child.stdout.take().unwrap());
        let said: Value = documents.into_iter().next().unwrap().unwrap();
        let address = said["address"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        Self { child, address }
    }

    fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes; returns what comes back until the connection is closed.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A server that has said no may close before all is written.
        let _ = stream.write_all(bytes);
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut part) {
            text.extend_from_slice(&part[..count]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The status and body of an answer.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        let answer = self.raw(&[head.as_bytes(), body].concat());
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask("POST", path, JSON, body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}")))
    }

    fn complete(&self, body: &Value) -> Value {
        let (status, answer) = self.post("/v1/completions", body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Asks it to end; its exit code.
    fn end(self) -> Option<i32> {
        self.signal();
        self.wait()
    }

    fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn signal(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const JSON: &str = "content-type: application/json\r\n";

/// The demo model with a chat template, which it has none of by itself.
fn with_template(dir: &Path) -> PathBuf {
    let model = dir.join("demo");
    fs::create_dir(&model).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"] {
        fs::copy(demo().join(name), model.join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    model
}

fn python(script: &str, args: &[&str]) -> Output {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    Command::new(python).arg(root().join("tests/python").join(script)).args(args).output().unwrap()
}

fn succeeded(output: &Output) -> String {
    let [out, error] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{out}\n{error}");
    out
}

#[test]
fn lm_evaluation_harness_finds_what_eval_finds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let fixture = |name: &str| root().join("tests/fixtures/evaluation").join(name);
    fs::copy(fixture("choices.jsonl"), at("choices.jsonl")).unwrap();
    fs::copy(fixture("open.jsonl"), at("questions.jsonl")).unwrap();
    let mut pages = String::new();
    let names = ["novel", "dictionary"].map(|name| {
        let text = fs::read_to_string(root().join(format!("tests/fixtures/eval-text/{name}.txt"))).unwrap();
        // Short enough for one window.
        let page: String = text.chars().take(1500).collect();
        pages += &format!("{}\n", json!({ "page": page }));
        fs::write(at(&format!("{name}.txt")), page).unwrap();
        at(&format!("{name}.txt"))
    });
    fs::write(at("pages.jsonl"), pages).unwrap();

    let serving = Serving::start(&demo(), &["--exact"], None);
    let found: Value =
        serde_json::from_str(&succeeded(&python("lm_eval_tasks.py", &[&serving.base(), "demo", &at("")])))
            .unwrap();
    assert_eq!(serving.end(), Some(0));

    let model = demo().display().to_string();
    let mut eval = vec!["eval", &model, "--protocol", "strided", "--window", "1024", "--stride", "512"];
    let (choices, questions) = (at("choices.jsonl"), at("questions.jsonl"));
    eval.extend([
        "--bos", "document", "--answer", "12", "--text", &names[0], &names[1], "--task", &choices, &questions,
    ]);
    let ours = json(&eval);
    for (task, keys) in [("choices", &["acc", "acc_norm", "acc_bytes"][..]), ("questions", &["exact_match"])]
    {
        for key in keys {
            let key = format!("{key},none");
            let [theirs, ours] =
                [&found[task][&key], &ours["results"][task][&key]].map(|v| v.as_f64().unwrap());
            assert!((theirs - ours).abs() < 1e-12, "{task} {key}: {theirs} and {ours}");
        }
    }
    assert!(found["questions"]["exact_match,none"].as_f64().unwrap() > 0.0);
    let by_token = &ours["evaluation"]["compact"]["overall"]["by_token"];
    let [theirs, ours] =
        [&found["pages"]["bits_per_byte,none"], &by_token["bits_per_byte"]].map(|v| v.as_f64().unwrap());
    assert!((theirs - ours).abs() < 1e-5 * ours, "bits per byte: {theirs} and {ours}");
}

#[test]
fn the_openai_client_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&with_template(dir.path()), &[], Some("secret"));
    let said = succeeded(&python("openai_client.py", &[&serving.base(), "demo", "secret"]));
    assert!(said.contains("passed"), "{said}");
    let (status, metrics) = serving.ask("GET", "/metrics", "authorization: Bearer secret\r\n", b"");
    assert_eq!(status, 200);
    for name in [
        "moepress_requests_total{status=\"2xx\"}",
        "moepress_generated_tokens_total",
        "moepress_request_seconds_count",
    ] {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
    }
    assert_eq!(serving.ask("GET", "/health", "", b"").0, 200);
    assert_eq!(serving.ask("GET", "/metrics", "", b"").0, 401);
}

#[test]
fn sequences_that_run_together_are_what_they_are_alone() {
    let serving = Serving::start(&demo(), &["--batch", "3"], None);
    let request = |prompt: &str, temperature: f64| json!({"model": "demo", "prompt": prompt, "max_tokens": 24, "temperature": temperature, "seed": 7, "logprobs": 1});
    let prompts = ["The old house", "It was", "When she had", "In the beginning", "fn main", "The"];
    let alone: Vec<Value> =
        prompts.iter().map(|prompt| serving.complete(&request(prompt, 0.8))["choices"].clone()).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let ask = |prompt: &&'static str| {
            let prompt = *prompt;
            let (serving, request) = (&serving, &request);
            scope.spawn(move || serving.complete(&request(prompt, 0.8))["choices"].clone())
        };
        let asked: Vec<_> = prompts.iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((a, b), prompt) in alone.iter().zip(&together).zip(prompts) {
        assert_eq!(a[0]["text"], b[0]["text"], "{prompt}");
    }
    // A batch in one request, and what was told of the prompt.
    let ids = serving.post("/tokenize", &json!({"prompt": "The old house", "add_special_tokens": false})).1["tokens"].clone();
    assert_eq!(serving.post("/detokenize", &json!({"tokens": ids})).1["prompt"], "The old house");
    let echo = serving.complete(&json!({
        "model": "demo", "prompt": [ids, [1], ids], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true, "seed": 1234,
    }));
    let choices = echo["choices"].as_array().unwrap();
    let count = ids.as_array().unwrap().len();
    let lists = |index: usize| &choices[index]["logprobs"];
    assert_eq!(lists(0), lists(2));
    assert_eq!(lists(0)["token_logprobs"].as_array().unwrap().len(), count + 1);
    assert_eq!(lists(1)["token_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(echo["usage"]["prompt_tokens"], 2 * count + 1);
    // What is told of a prompt leaves what follows alone.
    let more = |echo: bool| {
        serving.complete(&json!({"model": "demo", "prompt": ids, "max_tokens": 9, "echo": echo, "seed": 3}))
    };
    let [with, without] =
        [true, false].map(|echo| more(echo)["choices"][0]["text"].as_str().unwrap().to_owned());
    assert_eq!(with, "The old house".to_owned() + &without);
}

#[test]
fn hostile_requests_are_refused_and_others_served() {
    let serving =
        Serving::start(&demo(), &["--max-body", "4096", "--queue", "2", "--max-tokens", "1000"], None);
    let post = |headers: &str, body: &[u8]| serving.ask("POST", "/v1/completions", headers, body);
    let good = br#"{"model": "demo", "prompt": "The", "max_tokens": 2}"#;
    let error = |(status, body): (u16, String)| {
        let document: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body:?}"));
        assert!(document["error"]["message"].is_string() && document["error"]["type"].is_string(), "{body}");
        status
    };
    assert_eq!(post(JSON, good).0, 200);
    assert_eq!(error(post("", good)), 415);
    assert_eq!(error(post("content-type: text/plain\r\n", good)), 415);
    assert_eq!(error(post(&format!("{JSON}content-encoding: gzip\r\n"), good)), 415);
    assert_eq!(error(post(JSON, &vec![b' '; 5000])), 413);
    for body in [&b"{"[..], b"\xff", b"[]", b"{\"model\": \"demo\", \"model\": \"demo\"}", &[b'['; 4000]] {
        assert_eq!(error(post(JSON, body)), 400);
    }
    let field = |name: &str, value: Value| {
        let mut request = json!({"model": "demo", "prompt": "The", "max_tokens": 2});
        request[name] = value;
        let (status, body) = post(JSON, request.to_string().as_bytes());
        assert!(body.contains(name), "{name}: {body}");
        error((status, body))
    };
    for (name, value) in [
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1e18)),
        ("temperature", json!("NaN")),
        ("temperature", json!(-0.1)),
        ("top_p", json!(0)),
        ("n", json!(1_000_000_000)),
        ("n", json!(0)),
        ("logprobs", json!(1000)),
        ("stop", json!(vec!["x"; 65])),
        ("prompt", json!([4096])),
        ("prompt", json!([[1], "a", 2])),
        ("prompt", json!("")),
        ("prompt", Value::Null),
        ("prompt", json!(vec![1; 1025])),
        ("logit_bias", json!({"1": 5})),
        ("file", json!("/etc/passwd")),
    ] {
        assert_eq!(field(name, value), 400, "{name}");
    }
    assert_eq!(field("model", json!("../../x")), 404);
    assert_eq!(error(serving.ask("GET", "/../etc/passwd", "", b"")), 404);
    assert_eq!(error(serving.ask("DELETE", "/v1/models", "", b"")), 405);
    // A chat with a model without template says so.
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(error(serving.ask("POST", "/v1/chat/completions", JSON, chat.to_string().as_bytes())), 400);

    // A chunked body without end, and a head that does not come.
    let endless = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n{}",
        "400\r\n".to_owned() + &" ".repeat(1024) + "\r\n"
    );
    let endless = endless.clone() + &("400\r\n".to_owned() + &" ".repeat(1024) + "\r\n").repeat(8);
    assert!(serving.raw(endless.as_bytes()).starts_with("HTTP/1.1 413 "));
    let started = Instant::now();
    assert!(!serving.raw(b"GET /health HTTP/1.1\r\nx: ").contains(" 200 "));
    assert!(started.elapsed() < Duration::from_secs(20), "a slow head is waited for");
    assert!(
        serving
            .raw(&[b"GET /health HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat())
            .starts_with("HTTP/1.1 431 ")
    );

    // More than may wait, beside one that runs: the others are told to come again, or that it cannot be.
    let many = json!({"model": "demo", "prompt": ["a", "b", "c"]});
    assert_eq!(error(post(JSON, many.to_string().as_bytes())), 400);
    let long =
        json!({"model": "demo", "prompt": "The", "max_tokens": 900, "n": 2, "stream": true}).to_string();
    let mut stream = serving.connect();
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {}\r\n\r\n", long.len());
    stream.write_all((head + &long).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    let refused = serving.raw(
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{JSON}content-length: {}\r\n\r\n", good.len())
            .into_bytes()
            .into_iter()
            .chain(*good)
            .collect::<Vec<_>>()
            .as_slice(),
    );
    assert!(
        refused.starts_with("HTTP/1.1 429 ") && refused.to_lowercase().contains("retry-after: 1"),
        "{refused}"
    );
    // Whoever goes away makes room.
    drop(stream);
    let freed = Instant::now();
    while post(JSON, good).0 != 200 {
        assert!(freed.elapsed() < Duration::from_secs(20), "the place of a client that left is not freed");
    }
    assert_eq!(serving.end(), Some(0));
}

#[test]
fn an_end_is_orderly_and_an_open_server_takes_a_token() {
    let serving = Serving::start(&demo(), &[], None);
    let body = json!({"model": "demo", "prompt": "The", "max_tokens": 200, "temperature": 0, "stream": true})
        .to_string();
    let mut stream = serving.connect();
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut first = [0; 200];
    stream.read_exact(&mut first).unwrap();
    serving.signal();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "cut off: {rest:?}");
    assert_eq!(serving.wait(), Some(0));

    let model = demo();
    let open = |token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moepress"));
        command
            .arg("serve")
            .arg(&model)
            .args(["--host", "0.0.0.0", "--port", "0"])
            .env_remove("MOEPRESS_TOKEN");
        token.map(|token| command.env("MOEPRESS_TOKEN", token));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = open(None);
    assert!(code == Some(2) && said.contains("a token is needed"), "{said}");
    assert_eq!(open(Some("two words")).0, Some(2));
    let slow = Serving::start(&demo(), &["--timeout", "1"], None);
    let long = json!({"model": "demo", "prompt": "The", "max_tokens": 1000, "temperature": 0, "n": 16});
    let (status, answer) = slow.post("/v1/completions", &long);
    assert_eq!(status, 408, "{answer}");
}
