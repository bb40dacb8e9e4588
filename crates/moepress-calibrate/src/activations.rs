//! What is kept between the passes over a layer: in memory, or in files that are written once, read, and removed.

use crate::CalibrateError;
use moepress_checkpoint::{CheckpointError, Files, ReadAt, WriteSync};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of every chunk, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// Hidden states before a layer.
    Boundary(usize),
    /// Hidden states after attention.
    Attended,
    /// The experts that tokens were routed to in a layer.
    Choices(usize),
    /// What the experts so far add to them.
    Sum(bool),
    /// What the experts so far returned in the original and do not return now.
    Missing(bool),
    /// Gradient of the loss in the hidden states after a layer.
    Gradient(usize),
    /// Gradient in the input of the experts, of the experts so far.
    ExpertInput(bool),
    /// Gradient in the gates, of the experts so far.
    Gates(bool),
}

/// Where activations go that do not fit into memory: a directory that is the sweep's own.
#[derive(Clone)]
pub struct Spool {
    /// The file system.
    pub files: Arc<dyn Files>,
    /// The directory; created when needed, removed at the end.
    pub dir: PathBuf,
}

/// All activations of a sweep.
pub(crate) enum Activations {
    Memory(BTreeMap<(Slot, usize), Vec<f32>>),
    Disk(Disk),
}

pub(crate) struct Disk {
    spool: Spool,
    slots: BTreeMap<Slot, File>,
    /// Files are numbered: a slot that is written again is another file.
    next: usize,
    closed: bool,
}

struct File {
    path: PathBuf,
    /// First byte and number of values of every chunk.
    chunks: Vec<(u64, usize)>,
    bytes: u64,
    writer: Option<Box<dyn WriteSync>>,
    reader: Option<Box<dyn ReadAt>>,
}

impl Activations {
    pub fn new(spool: Option<Spool>) -> Result<Self, CalibrateError> {
        let Some(spool) = spool else { return Ok(Self::Memory(BTreeMap::new())) };
        spool.files.create_dir(&spool.dir).map_err(|e| writing(&spool.dir, e))?;
        Ok(Self::Disk(Disk { spool, slots: BTreeMap::new(), next: 0, closed: false }))
    }

    /// The values of a chunk, which must have been written.
    pub fn read(&self, slot: Slot, chunk: usize) -> Result<Vec<f32>, CalibrateError> {
        match self {
            Self::Memory(all) => Ok(all.get(&(slot, chunk)).cloned().unwrap_or_default()),
            Self::Disk(disk) => match disk.slots.get(&slot) {
                Some(file) => file.read(chunk),
                None => Ok(vec![]),
            },
        }
    }

    /// Adds the values of the next chunk of a slot.
    pub fn write(&mut self, slot: Slot, chunk: usize, values: Vec<f32>) -> Result<(), CalibrateError> {
        match self {
            Self::Memory(all) => {
                all.insert((slot, chunk), values);
                Ok(())
            }
            Self::Disk(disk) => disk.write(slot, &values),
        }
    }

    /// Ends the writing of a slot.
    pub fn finish(&mut self, slot: Slot) -> Result<(), CalibrateError> {
        if let Self::Disk(disk) = self
            && let Some(file) = disk.slots.get_mut(&slot)
        {
            file.writer = None;
            let opened = disk.spool.files.open(&file.path);
            file.reader = Some(opened.map_err(|e| CheckpointError::reading(&file.path, e))?);
        }
        Ok(())
    }

    /// Forgets a slot.
    pub fn drop(&mut self, slot: Slot) -> Result<(), CalibrateError> {
        match self {
            Self::Memory(all) => all.retain(|&(kept, _), _| kept != slot),
            Self::Disk(disk) => {
                if let Some(file) = disk.slots.remove(&slot) {
                    disk.spool.files.remove_file(&file.path).map_err(|e| writing(&file.path, e))?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left on disk; an error says that it is still there.
    pub fn close(mut self) -> Result<(), CalibrateError> {
        match &mut self {
            Self::Memory(_) => Ok(()),
            Self::Disk(disk) => disk.clear(),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After an error, which is the better story.
        if !self.closed {
            let _ = self.clear();
        }
    }
}

impl Disk {
    fn clear(&mut self) -> Result<(), CalibrateError> {
        self.closed = true;
        self.slots.clear();
        let Spool { files, dir } = &self.spool;
        Ok(files.remove_dir_all(dir).map_err(|e| writing(dir, e))?)
    }

    fn write(&mut self, slot: Slot, values: &[f32]) -> Result<(), CalibrateError> {
        if !self.slots.contains_key(&slot) {
            let path = self.spool.dir.join(format!("{}.f32", self.next));
            self.next += 1;
            let writer = Some(self.spool.files.create(&path).map_err(|e| writing(&path, e))?);
            self.slots.insert(slot, File { path, chunks: vec![], bytes: 0, writer, reader: None });
        }
        if let Some(file) = self.slots.get_mut(&slot)
            && let Some(writer) = &mut file.writer
        {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write(&bytes).map_err(|e| writing(&file.path, e))?;
            file.chunks.push((file.bytes, values.len()));
            file.bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

impl File {
    fn read(&self, chunk: usize) -> Result<Vec<f32>, CalibrateError> {
        let (Some(reader), Some(&(start, count))) = (&self.reader, self.chunks.get(chunk)) else {
            return Ok(vec![]);
        };
        let mut bytes = vec![0; 4 * count];
        reader.read_at(start, &mut bytes).map_err(|e| CheckpointError::reading(&self.path, e))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

fn writing(path: &Path, error: std::io::Error) -> CheckpointError {
    CheckpointError::writing(path, error)
}
