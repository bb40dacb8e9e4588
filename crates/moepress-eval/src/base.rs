//! A model's distributions of the next token, kept in a file: the likeliest tokens of each, so that others can be
//! compared with the model without it.
//!
//! The file is a safetensors file: `records`, U8 `[tokens, bytes]`, and `digest`, U8 `[32]`, the SHA-256 of those; the
//! metadata says what they are of. A record is, little-endian: ln p of the token that came and ln of the probability of all
//! tokens that are not kept (f32 each), then the kept tokens, the likeliest first: ids (u16 where the vocabulary has
//! 65536 tokens at most, else u32), and ln p of each (f32).

use crate::EvalError;
use crate::evaluate::Text;
use moepress_checkpoint::{
    CheckpointError, Digester, Files, RawDtype, TensorFile, WriteSync, digest_of, parse_json, stream_header,
};
use moepress_runtime::LogProbabilities;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the header in the metadata.
const HEADER: &str = "moepress_base";
const VERSION: u32 = 1;
const DIGEST: usize = 32;
/// Bytes that a digest is checked in at a time.
const CHUNK: usize = 1 << 20;

/// What a file of distributions is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseHeader {
    /// Version of the format.
    pub format_version: u32,
    /// The model as it was named.
    pub model: String,
    /// SHA-256 of the digests of its files.
    pub model_sha256: String,
    /// Tokens of its vocabulary.
    pub vocab: usize,
    /// Kept of each distribution.
    pub top: usize,
    /// How the text was cut: `paper`, `llama.cpp` or `strided`.
    pub protocol: String,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from a window to the next.
    pub stride: usize,
    /// Where the beginning-of-sequence token went.
    pub bos: String,
    /// SHA-256 of all windows and of what is scored of them.
    pub tokens_sha256: String,
    /// Tokens that were scored.
    pub tokens: usize,
}

impl BaseHeader {
    /// A header for distributions on `texts`, of which all but `model` to `bos` follows.
    pub fn new(
        (model, model_sha256): (String, String),
        (vocab, top): (usize, usize),
        (protocol, window, stride, bos): (&str, usize, usize, &str),
        texts: &[Text],
    ) -> Self {
        let windows = || texts.iter().flat_map(|text| &text.windows);
        let words = windows().flat_map(|window| {
            let sizes = [window.ids.len() as u32, window.first as u32];
            sizes.into_iter().chain(window.ids.iter().copied())
        });
        let tokens_sha256 = digest_of(&words.flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let tokens = windows().map(|window| window.ids.len().saturating_sub(window.first)).sum();
        let (protocol, bos) = (protocol.to_owned(), bos.to_owned());
        let top = top.min(vocab);
        Self {
            format_version: VERSION,
            model,
            model_sha256,
            vocab,
            top,
            protocol,
            window,
            stride,
            bos,
            tokens_sha256,
            tokens,
        }
    }

    /// Bytes of an id.
    fn id(&self) -> usize {
        if self.vocab <= 1 << 16 { 2 } else { 4 }
    }

    /// Bytes of a record.
    fn record(&self) -> usize {
        8 + self.top * (self.id() + 4)
    }

    /// The first way in which what it says of the text differs from `other`.
    fn differs(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let keys = |header: &Self| {
            [
                ("protocol", header.protocol.clone()),
                ("window", header.window.to_string()),
                ("stride", header.stride.to_string()),
                ("bos", header.bos.clone()),
                ("vocab", header.vocab.to_string()),
                ("tokens", header.tokens.to_string()),
                ("tokens_sha256", header.tokens_sha256.clone()),
            ]
        };
        let mut pairs = keys(self).into_iter().zip(keys(other));
        pairs.find(|(a, b)| a != b).map(|((key, a), (_, b))| (key, a, b))
    }
}

/// Writes distributions in the order of their tokens.
pub struct BaseWriter {
    header: BaseHeader,
    path: PathBuf,
    file: Box<dyn WriteSync>,
    digest: Digester,
}

impl BaseWriter {
    /// Starts a file that was just created; errors call it `path`.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn new(header: BaseHeader, path: &Path, file: Box<dyn WriteSync>) -> Result<Self, EvalError> {
        let shape = vec![header.tokens, header.record()];
        let tensors = [("records", RawDtype::U8, shape), ("digest", RawDtype::U8, vec![DIGEST])];
        let text =
            serde_json::to_string(&header).map_err(|e| CheckpointError::Encode { reason: e.to_string() })?;
        let head = stream_header(&tensors, HEADER, &text)?;
        let mut writer = Self { header, path: path.to_owned(), file, digest: Digester::default() };
        writer.write(&head)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), EvalError> {
        Ok(self.file.write(bytes).map_err(|e| CheckpointError::writing(&self.path, e))?)
    }

    pub(crate) fn top(&self) -> usize {
        self.header.top
    }

    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), EvalError> {
        self.digest.update(records);
        self.write(records)
    }

    /// Ends the file and makes it durable.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn finish(mut self) -> Result<(), EvalError> {
        let digest = self.digest.bytes();
        self.write(&digest)?;
        Ok(self.file.sync().map_err(|e| CheckpointError::writing(&self.path, e))?)
    }
}

/// Appends what is kept of one distribution.
pub(crate) fn record(p: &LogProbabilities<'_>, target: usize, top: usize, out: &mut Vec<u8>) {
    let vocab = p.logits().len();
    let ids = p.top(top);
    // In the order of ids, so that the sum does not depend on how they were selected.
    let mut kept = vec![false; vocab];
    ids.iter().for_each(|&id| kept[id as usize] = true);
    let rest: f64 = (0..vocab).filter(|&id| !kept[id]).map(|id| p.of(id).exp()).sum();
    out.extend((p.of(target) as f32).to_le_bytes());
    out.extend((rest.ln() as f32).to_le_bytes());
    for &id in &ids {
        match vocab <= 1 << 16 {
            true => out.extend((id as u16).to_le_bytes()),
            false => out.extend(id.to_le_bytes()),
        }
    }
    for &id in &ids {
        out.extend((p.of(id as usize) as f32).to_le_bytes());
    }
}

/// Distributions that were kept.
pub struct Base {
    file: TensorFile,
    path: PathBuf,
    header: BaseHeader,
    /// SHA-256 of the records.
    sha256: String,
}

impl Base {
    /// Opens a file and checks it against its digest, and against the texts that it is to be compared on, which
    /// `wanted` describes.
    ///
    /// # Errors
    /// It is missing, malformed, damaged, or of other text.
    pub fn open(files: &dyn Files, path: &Path, wanted: &BaseHeader) -> Result<Self, EvalError> {
        let file = TensorFile::open(files, path)?;
        let bad = |field: &str, reason: String| CheckpointError::bad_input(path, field, reason);
        let text = file
            .text(HEADER)
            .ok_or_else(|| bad("metadata", format!("has no `{HEADER}`: no file of --save-base")))?;
        let value: serde_json::Value = parse_json(path, "header", text.as_bytes())?;
        if value["format_version"] != VERSION {
            let reason =
                format!("is {}, this build reads {VERSION} (save it again)", value["format_version"]);
            return Err(bad("format_version", reason).into());
        }
        let header: BaseHeader = serde_json::from_value(value).map_err(|e| bad("header", e.to_string()))?;
        if header.top == 0 || header.top > header.vocab || header.vocab > u32::MAX as usize {
            return Err(bad("top", format!("{} of {} tokens cannot be", header.top, header.vocab)).into());
        }
        if let Some((key, here, there)) = header.differs(wanted) {
            let reason =
                format!("is {here}, the evaluation has {there} (save it for the same text and protocol)");
            return Err(bad(key, reason).into());
        }
        file.expect("records", RawDtype::U8, &[header.tokens, header.record()])?;
        file.expect("digest", RawDtype::U8, &[DIGEST])?;
        let (mut digest, mut at, mut chunk) = (Digester::default(), 0, vec![0; CHUNK]);
        let size = header.tokens * header.record();
        while at < size {
            let here = CHUNK.min(size - at);
            file.read_part("records", at as u64, &mut chunk[..here])?;
            digest.update(&chunk[..here]);
            at += here;
        }
        let mut kept = [0; DIGEST];
        file.read_part("digest", 0, &mut kept)?;
        let sha256 = digest.hex();
        if digest.bytes() != kept {
            return Err(
                bad("digest", "differs from that of the records: the file is damaged".to_owned()).into()
            );
        }
        Ok(Self { file, path: path.to_owned(), header, sha256 })
    }

    /// What it says of itself.
    pub fn header(&self) -> &BaseHeader {
        &self.header
    }

    /// SHA-256 of the records.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn vocab(&self) -> usize {
        self.header.vocab
    }

    /// How many tokens of each distribution are known, where that is not all.
    pub(crate) fn bound(&self) -> Option<usize> {
        Some(self.header.top).filter(|&top| top < self.header.vocab)
    }

    /// Records from the one of that index.
    pub(crate) fn read(&self, first: usize, count: usize) -> Result<Records, EvalError> {
        let record = self.header.record();
        let mut bytes = vec![0; count * record];
        self.file.read_part("records", (first * record) as u64, &mut bytes)?;
        let (top, id, vocab) = (self.header.top, self.header.id(), self.header.vocab);
        let records = Records { bytes, record, top, id };
        // The digest says that they are as written, not that they were written well.
        let within = |index| records.get(index).ids().all(|id| id < vocab);
        match (0..count).all(within) {
            true => Ok(records),
            false => {
                let reason = format!("holds ids that the vocabulary of {vocab} tokens does not have");
                Err(CheckpointError::bad_input(&self.path, "records", reason).into())
            }
        }
    }
}

/// Some records, as they are in the file.
pub(crate) struct Records {
    bytes: Vec<u8>,
    record: usize,
    top: usize,
    id: usize,
}

impl Records {
    pub(crate) fn get(&self, index: usize) -> Record<'_> {
        let bytes = &self.bytes[index * self.record..(index + 1) * self.record];
        Record { bytes, top: self.top, id: self.id }
    }
}

/// What is known of one distribution.
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
    top: usize,
    id: usize,
}

impl Record<'_> {
    fn float(&self, at: usize) -> f64 {
        let bytes = self.bytes[at..at + 4].first_chunk::<4>().copied().unwrap_or_default();
        f64::from(f32::from_le_bytes(bytes))
    }

    /// ln p of the token that came.
    pub(crate) fn target(&self) -> f64 {
        self.float(0)
    }

    fn ids(&self) -> impl Iterator<Item = usize> {
        let ids = &self.bytes[8..8 + self.top * self.id];
        ids.chunks_exact(self.id).map(|id| id.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    }

    pub(crate) fn likeliest(&self) -> usize {
        self.ids().next().unwrap_or(0)
    }

    /// Σ p (ln p − ln q) over the kept tokens, with all others as one: at most what the whole distributions come to.
    pub(crate) fn divergence(&self, q: &LogProbabilities<'_>) -> f64 {
        let first = 8 + self.top * self.id;
        let (mut sum, mut left) = (0.0, 1.0);
        for (index, id) in self.ids().enumerate() {
            let (p, q) = (self.float(first + 4 * index), q.of(id));
            sum += p.exp() * (p - q);
            left -= q.exp();
        }
        let rest = self.float(4);
        // What rounding leaves of nothing is nothing.
        if rest.is_finite() && self.top < q.logits().len() {
            sum += rest.exp() * (rest - left.max(f64::MIN_POSITIVE).ln());
        }
        // Not `max`, which would turn NaN into 0.
        if sum < 0.0 { 0.0 } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    fn kept(p: &[f64], target: usize, top: usize) -> Records {
        let logits = logits(p);
        let mut bytes = Vec::new();
        record(&LogProbabilities::new(&logits), target, top, &mut bytes);
        Records { record: bytes.len(), bytes, top: top.min(p.len()), id: 2 }
    }

    #[test]
    fn the_likeliest_are_kept_and_bound_the_divergence() {
        let (p, q) = ([0.1, 0.4, 0.2, 0.3], [0.3, 0.3, 0.3, 0.1]);
        let of_q = logits(&q);
        let q_log = LogProbabilities::new(&of_q);
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        let whole: f64 = p.iter().zip(&q).map(|(p, q): (&f64, &f64)| p * (p / q).ln()).sum();
        let all = kept(&p, 2, 9);
        near(all.get(0).divergence(&q_log), whole);
        near(all.get(0).target(), 0.2f64.ln());
        assert_eq!(all.get(0).ids().collect::<Vec<_>>(), [1, 3, 2, 0]);
        let two = kept(&p, 0, 2);
        // 0.4, 0.3, and 0.3 in one, beside 0.3, 0.1 and 0.6.
        let bound = 0.4 * (0.4f64 / 0.3).ln() + 0.3 * 3f64.ln() + 0.3 * 0.5f64.ln();
        near(two.get(0).divergence(&q_log), bound);
        assert!(bound < whole && two.get(0).likeliest() == 1);
        // Itself.
        let of_p = logits(&p);
        near(two.get(0).divergence(&LogProbabilities::new(&of_p)), 0.0);
    }

    #[test]
    fn headers_tell_apart() {
        let texts = |first| {
            let windows = vec![moepress_text::Window { ids: vec![1, 2, 3], first, bytes: 2 }];
            [Text { name: "a".into(), windows }]
        };
        let header = |first, window| {
            BaseHeader::new(
                ("m".into(), "x".into()),
                (9, 300),
                ("paper", window, window, "none"),
                &texts(first),
            )
        };
        assert_eq!((header(1, 3).tokens, header(1, 3).top, header(1, 3).record()), (2, 9, 62));
        assert_eq!(header(1, 3).differs(&header(1, 3)), None);
        assert_eq!(header(1, 3).differs(&header(1, 4)).unwrap().0, "window");
        assert_eq!(header(1, 3).differs(&header(2, 3)).unwrap().0, "tokens");
    }
}
