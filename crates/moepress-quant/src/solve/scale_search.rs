//! Grids of least ℓₚ error, p < 1: HQQ.
