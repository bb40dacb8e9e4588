//! `moepress serve`: an OpenAI-compatible HTTP server.

use super::experts::Memory;
use super::{Context, Ending, model};
use crate::args::{Placed, Threads, at_least};
use crate::failure::{Failure, Reason};
use crate::output;
use moepress_checkpoint::read_file;
use moepress_runtime::Precision;
use moepress_serve::{Limits, ServeError, Served, Server};
use moepress_text::{ChatTemplate, SpecialTokens};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Of a file with a token.
const MAX_TOKEN: u64 = 4096;
/// The variable that may hold the token.
const TOKEN: &str = "MOEPRESS_TOKEN";

const EXAMPLES: &str = "\
Examples:
  moepress serve out/demo
  moepress serve out/demo --port 9000 --name demo
  MOEPRESS_TOKEN=secret moepress serve out/demo --host 0.0.0.0

Answers /v1/completions, /v1/chat/completions, /v1/models, /tokenizer_info, /tokenize, /detokenize, /health and /metrics, as \
docs/serve.md says. It listens on this machine alone; any other address takes a token, which clients send as \
`Authorization: Bearer <token>`. SIGINT or SIGTERM ends it once the answers under way are complete, a second one at once.";

/// Serve a model over HTTP, compatible with OpenAI's clients
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes one that is free
    #[arg(long, value_name = "N", default_value = "8080")]
    port: u16,
    /// What requests call the model [default: the name of its directory]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// File with the token that clients must send; the variable MOEPRESS_TOKEN does the same
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Sequences that run together
    #[arg(long, value_name = "N", default_value = "16", value_parser = at_least(1, 1024))]
    batch: usize,
    /// Sequences that wait or run; further requests get status 429
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least(1, 65_536))]
    queue: usize,
    /// Bytes of a request at most
    #[arg(long, value_name = "N", default_value = "1048576", value_parser = at_least(1024, 1 << 28))]
    max_body: usize,
    /// Tokens that a request may ask for
    #[arg(long, value_name = "N", default_value = "65536", value_parser = at_least(1, 1 << 24))]
    max_tokens: usize,
    /// Seconds from a request to its last token
    #[arg(long, value_name = "N", default_value = "600", value_parser = at_least(1, 86_400))]
    timeout: usize,
    /// Compute in f32 throughout, as `eval` does, instead of rounding activations; prompts are always scored so
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    threads: Threads,
    /// Print the address as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let limits = Limits {
            body: self.max_body,
            queue: self.queue,
            batch: self.batch,
            tokens: self.max_tokens,
            deadline: Duration::from_secs(self.timeout as u64),
            precision: if self.exact { Precision::Exact } else { Precision::Fast },
            ..Limits::default()
        };
        // Before the model is loaded, so that a wrong address is told at once.
        let server = Server::listen(SocketAddr::new(self.host, self.port), self.token(context)?, limits)?;
        let files = context.files.as_ref();
        let checkpoint = Arc::new(model::open(context, &self.path)?);
        let dir = checkpoint.dir();
        let template = match ChatTemplate::exists(files, dir)? {
            true => Some(ChatTemplate::open(files, dir)?),
            false => None,
        };
        let served = Served {
            name: self.name.unwrap_or_else(|| name(&self.path)),
            tokenizer: model::tokenizer(context, &checkpoint)?,
            special: SpecialTokens::open(files, dir)?,
            template,
            model: model::load_within(context, &checkpoint, &self.memory, self.placed.device)?,
        };
        let address = format!("http://{}", server.address()?);
        match self.json {
            true => output::json(
                &serde_json::json!({"schema_version": 1, "address": address, "model": served.name}),
            )?,
            false => output::result(&format!("{} is served at {address}/v1\n", served.name))?,
        }
        server.run(served, &|| context.interrupt.came())?;
        Ok(Ending::Done)
    }

    /// The token, if there is one.
    fn token(&self, context: &Context) -> Result<Option<String>, Failure> {
        let (token, place) = match &self.token_file {
            Some(file) => {
                let bytes = read_file(context.files.as_ref(), file, MAX_TOKEN)?;
                let text = String::from_utf8(bytes);
                let text = text.map_err(|_| Failure::usage(format!("{}: is not UTF-8", file.display())))?;
                (text.trim().to_owned(), file.display().to_string())
            }
            None => match std::env::var(TOKEN) {
                Ok(token) => (token.trim().to_owned(), TOKEN.to_owned()),
                Err(_) => return Ok(None),
            },
        };
        match token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
            true => Err(Failure::usage(format!("{place}: a token is one word of ASCII"))),
            false => Ok(Some(token)),
        }
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    canonical.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let reason = match error {
            ServeError::Open(_) | ServeError::Listen(..) => Reason::Usage,
            ServeError::Start(_) => Reason::Fault,
        };
        Self::new(reason, error)
    }
}
