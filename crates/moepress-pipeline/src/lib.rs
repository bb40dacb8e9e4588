//! Recipe × model → plan → run → report.
//!
//! Measure once, decide globally, apply by streaming: sweeps feed every stage that can use them, decisions
//! are edits, and one walk writes the result layer by layer.

#![warn(missing_docs)]

mod clock;
mod drift;
mod edited;
mod error;
mod evaluate;
mod idle;
mod layers;
mod memory;
mod plan;
mod quiz;
mod rehearse;
mod report;
mod rounded;
mod routing;
mod run;
mod schema;
mod stats;
mod sweep;
mod texts;
mod write;

pub use clock::Clock;
pub use drift::{DriftReport, Walk, drift};
pub use edited::Edited;
pub use error::PipelineError;
pub use evaluate::{Against, Evaluate, Evaluated, Loader};
pub use layers::{ExpertReport, LayerReport};
pub use plan::{Plan, PlannedStage, SizeOf, Sizes, plan};
pub use quiz::{Answers, Quiz};
pub use rehearse::{Rehearsal, Rehearse, rehearse};
pub use report::{
    BaseReport, CalibrationReport, Comparison, LossReport, PhaseReport, Report, SCHEMA_VERSION, Seconds,
    StageReport, TaskReport, UnderMeasuredReport, Verdict,
};
pub use routing::{PairReport, RoutingReport, RunReport, SuccessionReport};
pub use run::{Judge, Outcome, Render, Run, run};
pub use schema::recipe_schema;
pub use stats::{Measure, Shard, StatisticsFile, StatisticsHeader, measure, merge};
pub use sweep::{
    PlannedPoint, PointReport, PointResult, RankCorrelation, RenderSweep, SweepPlan, SweepReport, SweepRun,
    SweepSeconds, plan_sweep, run_sweep,
};
pub use texts::{TextReport, TextSet, TextsReport, load_texts};
