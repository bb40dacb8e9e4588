//! A device as kernels see it: buffers and the queue they are filled through.

use crate::GpuError;
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::ir::features::Plane;
use cubecl::prelude::BufferArg;
use cubecl::server::Handle;
use moepress_nn::{Cube, DType, Device, Tensor};

/// A device that is open.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) client: Client,
    pub(crate) device: CubeDevice,
    /// Planes are 32 units, and sum by themselves.
    pub(crate) plane_sums: bool,
}

/// Memory of a device, in words of 32 bits.
#[derive(Clone)]
pub struct Buffer {
    pub(crate) handle: Handle,
    pub(crate) len: usize,
}

impl Gpu {
    /// The device behind a device of burn, which must not be the CPU.
    ///
    /// # Errors
    /// It is the CPU.
    pub fn new(device: &Device) -> Result<Self, GpuError> {
        let probe = Tensor::<1>::zeros([1], device).try_into_primitive::<Cube>();
        let probe = probe.map_err(|e| GpuError::Driver(format!("{e:?}")))?;
        let client = probe.client;
        let hardware = &client.properties().hardware;
        let fixed = hardware.plane_size_min == 32 && hardware.plane_size_max == 32;
        let plane_sums = fixed && client.features().plane.contains(Plane::Ops);
        Ok(Self { client, device: probe.device, plane_sums })
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.client.properties().identity.name
    }

    /// Bytes of its memory, where the driver tells.
    pub fn memory(&self) -> Option<u64> {
        self.client.properties().memory.max_memory()
    }

    /// Whether sums over the units of a plane are left to the hardware.
    pub fn plane_sums(&self) -> bool {
        self.plane_sums
    }

    /// Moves bytes to the device, padded to whole words; none become four, the most that a kernel reads at once.
    ///
    /// # Errors
    /// They are more than one buffer of the device holds.
    pub fn upload(&self, mut bytes: Vec<u8>) -> Result<Buffer, GpuError> {
        let padded = if bytes.is_empty() { 16 } else { bytes.len().next_multiple_of(4) };
        bytes.resize(padded, 0);
        let most = self.client.properties().memory.max_page_size;
        if bytes.len() as u64 > most {
            return Err(GpuError::Buffer { bytes: bytes.len() as u64, most });
        }
        let len = bytes.len() / 4;
        Ok(Buffer { handle: self.client.create(Bytes::from_bytes_vec(bytes)), len })
    }

    pub(crate) fn numbers(&self, numbers: &[u32]) -> Result<Buffer, GpuError> {
        self.upload(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    /// The memory of a tensor of this device, row-major.
    pub(crate) fn buffer(&self, x: Tensor<2>) -> Buffer {
        let len = x.shape().num_elements();
        match x.try_into_primitive::<Cube>() {
            Ok(x) => Buffer { handle: into_contiguous(x).handle, len },
            // A tensor that is elsewhere is none that this decoder made.
            Err(_) => self.empty(len),
        }
    }

    /// A tensor of this device over that memory.
    pub(crate) fn tensor(&self, buffer: Buffer, shape: [usize; 2]) -> Tensor<2> {
        let Self { client, device, .. } = self.clone();
        let made = CubeTensor::new_contiguous(client, device, shape.into(), buffer.handle, DType::F32);
        Tensor::from_primitive::<Cube>(made)
    }

    /// `len` words of anything.
    pub fn empty(&self, len: usize) -> Buffer {
        let len = len.max(1);
        Buffer { handle: self.client.empty(4 * len), len }
    }

    /// Waits for the device and returns what a buffer holds.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>, GpuError> {
        let bytes =
            self.client.read_one(buffer.handle.clone()).map_err(|e| GpuError::Driver(format!("{e:?}")))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

impl Buffer {
    /// The first `len` words, or all where there are fewer.
    pub fn first(&self, len: usize) -> Self {
        let cut = self.len.saturating_sub(len);
        let handle = self.handle.clone().offset_end(4 * cut as u64);
        Self { handle, len: self.len - cut }
    }

    #[allow(unsafe_code)]
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: `len` words are what the buffer was made with.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }
}
