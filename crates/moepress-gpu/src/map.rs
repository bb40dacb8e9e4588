//! A linear map of burn that computes from the weights as they are stored.

use crate::GpuError;
use crate::bank::Bank;
use crate::device::Gpu;
use crate::kernels::Work;
use crate::launch::{Plan, product};
use moepress_nn::{Linear, Tensor};
use moepress_quant::Stored;
use std::sync::{Arc, Mutex, PoisonError};

/// Inputs up to which tables of a launch are kept for the next: those of decoding.
const KEPT: usize = 8;

/// A weight on a device.
pub(crate) struct Packed {
    gpu: Gpu,
    bank: Bank,
    rows: usize,
    cols: usize,
    plans: Mutex<[Option<Arc<Plan>>; KEPT]>,
}

impl Packed {
    pub(crate) fn new(gpu: &Gpu, stored: &Stored) -> Result<Self, GpuError> {
        let (rows, cols) = stored.matrix_shape();
        Ok(Self { gpu: gpu.clone(), bank: Bank::one(gpu, stored)?, rows, cols, plans: Mutex::default() })
    }

    fn plan(&self, n: usize) -> Result<Option<Arc<Plan>>, GpuError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let place = n.checked_sub(1).and_then(|at| plans.get_mut(at));
        if let Some(Some(plan)) = place.as_deref() {
            return Ok(Some(plan.clone()));
        }
        let work = [Work { segment: 0, entries: (0..n as u32).map(|i| (i, i)).collect() }];
        let plan = Plan::new(&self.gpu, &self.bank, &work, None)?.map(Arc::new);
        if let Some(place) = place {
            place.clone_from(&plan);
        }
        Ok(plan)
    }
}

impl Linear for Packed {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [n, _] = x.dims();
        let out = self.gpu.empty(n * self.rows);
        // Tables are small: a device without room for them has failed, which the read of the result reports.
        if let Ok(Some(plan)) = self.plan(n) {
            let x = self.gpu.buffer(x);
            product(&self.gpu, &self.bank, &plan, (&x, self.cols), (&out, self.rows));
        }
        self.gpu.tensor(out, [n, self.rows])
    }
}
