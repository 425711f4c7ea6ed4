//! GPUs that this build of llama.cpp can use.

use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

use super::Backend;

/// Whose memory a GPU computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMemory {
    /// The board's: processor and GPU have one memory, as on a Jetson.
    Boards,
    /// Its own, as on a card.
    Own,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What its maker calls it.
    pub name: String,
    /// Whose memory it has.
    pub memory: DeviceMemory,
    /// Bytes of that memory that are free now.
    pub free: u64,
}

impl Backend {
    /// The GPUs that a load may use: cards, else the one of the board; none in a build without GPU. Asking for the
    /// first time starts the GPU's driver, which takes a moment and some memory.
    pub fn devices(&self) -> Vec<Device> {
        // SAFETY: the backends are registered, and devices live as long as the process.
        let all = unsafe { (0..sys::ggml_backend_dev_count()).map(|at| sys::ggml_backend_dev_get(at)) };
        let devices: Vec<Device> = all.filter_map(device).collect();
        // As llama.cpp has it, which uses the board's own only where there is no card.
        let memory = if devices.iter().any(|device| device.memory == DeviceMemory::Own) {
            DeviceMemory::Own
        } else {
            DeviceMemory::Boards
        };
        devices.into_iter().filter(|device| device.memory == memory).collect()
    }
}

fn device(raw: sys::ggml_backend_dev_t) -> Option<Device> {
    // SAFETY: the device comes from the registry.
    let memory = match unsafe { sys::ggml_backend_dev_type(raw) } {
        sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceMemory::Own,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceMemory::Boards,
        _ => return None,
    };
    let (mut free, mut total) = (0, 0);
    // SAFETY: as above; both pointers are of this stack, and the text is NUL-terminated and static.
    let name = unsafe {
        sys::ggml_backend_dev_memory(raw, &raw mut free, &raw mut total);
        CStr::from_ptr(sys::ggml_backend_dev_description(raw)).to_string_lossy().into_owned()
    };
    Some(Device { name, memory, free: free as u64 })
}
