//! What a sweep does not compute twice: directories named by the digest of everything that is in them depends on.
//!
//! Entries appear whole. Nothing removes them; the directory can be removed at any time.

use super::{Finished, PointResult, SweepPlan, SweepRun};
use crate::PipelineError;
use crate::report::Report;
use crate::stats::{Measure, Shard, measure};
use moepress_checkpoint::{
    Checkpoint, CheckpointError, Files, Kind, Progress, Publisher, digest, digest_of, read_file, read_json,
};
use moepress_recipe::Recipe;
use moepress_stats::Needs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of an entry.
const POINT: &str = "point.json";
const REPORT: &str = "report.json";
const STATISTICS: &str = "statistics.safetensors";

/// The largest report that is read.
const MOST_BYTES: u64 = 256 << 20;

/// A cache, and what all points of a sweep depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cache {
    dir: PathBuf,
    /// What computes, on which model and texts.
    shared: String,
    /// How the calibration text is cut, and from which files.
    calibration: String,
}

impl Cache {
    /// The recipe is that of any point: all have the same model and texts.
    pub fn new(job: &SweepRun<'_>, model: &Checkpoint, recipe: &Recipe) -> Result<Self, PipelineError> {
        let mut digests = model.input_digests()?;
        for (index, path) in recipe.text_files().enumerate() {
            digests.insert(format!("text {index}"), digest(job.files.as_ref(), path)?);
        }
        let listed: String = digests.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        let calibration = format!("{:?}", recipe.calibration);
        Ok(Self { dir: job.cache.to_owned(), shared: format!("{}\n{listed}", job.computer), calibration })
    }

    /// The entry of a point.
    pub fn point(&self, recipe: &Recipe) -> String {
        digest_of(format!("point\n{}{}", self.shared, recipe.resolved_yaml()).as_bytes())
    }

    /// The entry of a measurement.
    pub fn statistics(&self, needs: &Needs) -> String {
        let groups = needs.groups.iter().map(|need| need.name().to_owned());
        let names: Vec<String> = groups.chain(needs.formats.iter().map(ToString::to_string)).collect();
        let what = format!("statistics\n{}{}\n{}", self.shared, self.calibration, names.join(" "));
        digest_of(what.as_bytes())
    }

    /// Whether there is such an entry.
    pub fn has(&self, files: &dyn Files, key: &str) -> Result<bool, PipelineError> {
        let path = self.dir.join(key);
        let kind = files.kind(&path).map_err(|e| CheckpointError::reading(&path, e))?;
        Ok(kind == Some(Kind::Directory))
    }

    /// The file that the first measurement of points is taken from; none where none of those to run measures the model
    /// as it came.
    pub fn measured(
        &self,
        job: &SweepRun<'_>,
        plan: &SweepPlan,
        spool: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>, PipelineError> {
        let mut sharing = plan.points.iter().zip(super::points(job.sweep));
        let first = sharing.find(|(planned, _)| planned.shares && !planned.known);
        let Some((_, (_, first))) = first else { return Ok(None) };
        if let Some(path) = job.statistics_from {
            return Ok(Some(path.to_owned()));
        }
        let key = self.statistics(&plan.needs);
        if plan.measures {
            let measured = measure(
                &Measure {
                    files: job.files,
                    recipe: &first.recipe,
                    needs: Some(&plan.needs),
                    shard: Shard::WHOLE,
                    device: job.device.clone(),
                    spool: spool.to_owned(),
                },
                progress,
            )?;
            self.write(job.files, &key, BTreeMap::from([(STATISTICS, measured.encode()?)]))?;
        }
        Ok(Some(self.dir.join(key).join(STATISTICS)))
    }

    /// Stores what a point came to.
    pub fn store(&self, files: &Arc<dyn Files>, key: &str, report: &Report) -> Result<(), PipelineError> {
        let result = PointResult::of(report)?;
        let point = serde_json::to_vec(&result).map_err(|e| PipelineError::Report(e.to_string()))?;
        self.write(files, key, BTreeMap::from([(POINT, point), (REPORT, report.json()?)]))
    }

    /// Reads what a point came to.
    pub fn load(&self, files: &dyn Files, key: &str) -> Result<Finished, PipelineError> {
        let dir = self.dir.join(key);
        let path = dir.join(POINT);
        let result = read_json(files, &path, MOST_BYTES)?;
        Ok(Finished { result, report: read_file(files, &dir.join(REPORT), MOST_BYTES)? })
    }

    fn write(
        &self,
        files: &Arc<dyn Files>,
        key: &str,
        contents: BTreeMap<&str, Vec<u8>>,
    ) -> Result<(), PipelineError> {
        if files.kind(&self.dir).map_err(|e| CheckpointError::reading(&self.dir, e))?.is_none() {
            files.create_dir(&self.dir).map_err(|e| CheckpointError::writing(&self.dir, e))?;
        }
        let mut publisher = Publisher::new(files, &self.dir.join(key))?;
        for (name, bytes) in contents {
            publisher.write_file(name, &bytes)?;
        }
        Ok(publisher.finish()?)
    }
}
