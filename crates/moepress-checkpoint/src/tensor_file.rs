//! One safetensors file that is no part of a model.

use crate::header::Header;
use crate::input::buffer;
use crate::{CheckpointError, Files, RawDtype, RawTensor, ReadAt};
use std::path::{Path, PathBuf};

/// An open safetensors file, its header checked and no tensor read.
pub struct TensorFile {
    path: PathBuf,
    file: Box<dyn ReadAt>,
    header: Header,
}

impl TensorFile {
    /// Opens a file and checks its header to the last byte.
    ///
    /// # Errors
    /// The file is missing or no well-formed safetensors file.
    pub fn open(files: &dyn Files, path: &Path) -> Result<Self, CheckpointError> {
        let file = files.open(path).map_err(|e| CheckpointError::reading(path, e))?;
        let header = Header::read(file.as_ref(), path)?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    /// The text of that name in the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// Checks that there is a tensor of that name, type and shape.
    ///
    /// # Errors
    /// There is none, or it is another.
    pub fn expect(&self, name: &str, dtype: RawDtype, shape: &[usize]) -> Result<(), CheckpointError> {
        let bad =
            |reason: String| Err(CheckpointError::bad_input(&self.path, &format!("tensor {name:?}"), reason));
        match self.info(name) {
            None => bad("is missing".to_owned()),
            Some(info) if (info.dtype, info.shape.as_slice()) != (dtype, shape) => {
                bad(format!("is {} {:?}, not {dtype} {shape:?}", info.dtype, info.shape))
            }
            Some(_) => Ok(()),
        }
    }

    fn info(&self, name: &str) -> Option<&safetensors::tensor::TensorInfo> {
        self.header.tensors.iter().find(|(known, _)| known == name).map(|(_, info)| info)
    }

    /// Fills `bytes` from `offset` within a tensor.
    ///
    /// # Errors
    /// There is no such tensor, it ends before that, or the file does.
    pub fn read_part(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let range = self.info(name).map_or((0, 0), |info| info.data_offsets);
        let size = (range.1 - range.0) as u64;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
            let reason = format!("has {size} bytes, fewer than are asked for");
            return Err(CheckpointError::bad_input(&self.path, &format!("tensor {name:?}"), reason));
        }
        let start = self.header.data_start + range.0 as u64 + offset;
        self.file.read_at(start, bytes).map_err(|e| CheckpointError::reading(&self.path, e))
    }

    /// The tensors with their names, each read when it is asked for.
    pub fn tensors(&self) -> impl Iterator<Item = Result<(&str, RawTensor), CheckpointError>> {
        self.header.tensors.iter().map(|(name, info)| {
            let (begin, end) = info.data_offsets;
            let mut bytes = buffer(&self.path, (end - begin) as u64)?;
            let read = self.file.read_at(self.header.data_start + begin as u64, &mut bytes);
            read.map_err(|e| CheckpointError::reading(&self.path, e))?;
            Ok((name.as_str(), RawTensor { dtype: info.dtype, shape: info.shape.clone(), bytes }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OsFiles, encode_with_text};
    use std::collections::BTreeMap;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let raw =
            |bytes: &[u8]| RawTensor { dtype: RawDtype::U8, shape: vec![bytes.len()], bytes: bytes.into() };
        let tensors = BTreeMap::from([("b".to_owned(), raw(&[1, 2])), ("a".to_owned(), raw(&[]))]);
        let text = "{\"a\": \"\\\" ü\n\"}";
        let bytes = encode_with_text(&tensors, "about", text).unwrap();
        assert_eq!(bytes, encode_with_text(&tensors, "about", text).unwrap());
        std::fs::write(&path, &bytes).unwrap();
        let file = TensorFile::open(&OsFiles, &path).unwrap();
        assert_eq!((file.text("about"), file.text("format")), (Some(text), None));
        let read = file.tensors().map(|pair| pair.map(|(name, raw)| (name.to_owned(), raw)));
        assert_eq!(read.collect::<Result<BTreeMap<_, _>, _>>().unwrap(), tensors);

        let streamed = crate::stream_header(
            &[("a", RawDtype::U8, vec![0]), ("b", RawDtype::U8, vec![2])],
            "about",
            text,
        );
        std::fs::write(dir.path().join("b"), [streamed.unwrap(), vec![1, 2]].concat()).unwrap();
        let part = TensorFile::open(&OsFiles, &dir.path().join("b")).unwrap();
        assert_eq!(part.text("about"), Some(text));
        let mut byte = [0];
        part.read_part("b", 1, &mut byte).unwrap();
        assert_eq!(byte, [2]);
        assert!(part.read_part("b", 2, &mut byte).is_err() && part.read_part("c", 0, &mut byte).is_err());
        assert!(
            part.expect("b", RawDtype::U8, &[2]).is_ok() && part.expect("b", RawDtype::U8, &[1, 2]).is_err()
        );

        let shorter = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        shorter.set_len(bytes.len() as u64 - 1).unwrap();
        let ended = file.tensors().find_map(Result::err).unwrap().to_string();
        assert!(ended.ends_with("a: file: ended early: it was truncated while being read"), "{ended}");
        let cut = TensorFile::open(&OsFiles, &path).err().unwrap().to_string();
        assert!(cut.contains("beyond the file's 1 bytes of data"), "{cut}");
    }
}
