//! How many of a model's layers a GPU computes.
//!
//! Where processor and GPU share one memory (a Jetson), it is all of them: they take no more there than elsewhere. A
//! card gets as many as its own memory has room for; the others stay with the processor.

use crate::llama::{Device, DeviceMemory};

/// Left free on a card: the driver's own, and what the estimate does not see. Bytes.
const MARGIN: u64 = 1 << 30;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as is good.
    #[default]
    Auto,
    /// So many, from the last one on; 0: none.
    Count(u32),
}

/// Layers were asked for and nothing is there to compute them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "gpu_layers is {wanted}, and this engine has no GPU: use a build with CUDA, or set it to \"auto\" or 0"
)]
pub struct NoGpu {
    /// How many.
    pub wanted: u32,
}

/// Layers for the GPU, of `all` there are (the output counts as one). `takes` says what so many of them take there,
/// in bytes, and is asked for cards only.
///
/// # Errors
/// [`NoGpu`], or what `takes` failed with.
pub fn layers<E: From<NoGpu>>(
    wanted: GpuLayers,
    devices: &[Device],
    all: u32,
    mut takes: impl FnMut(u32) -> Result<u64, E>,
) -> Result<u32, E> {
    let Some(first) = devices.first() else {
        return match wanted {
            GpuLayers::Auto | GpuLayers::Count(0) => Ok(0),
            GpuLayers::Count(wanted) => Err(NoGpu { wanted }.into()),
        };
    };
    match (wanted, first.memory) {
        (GpuLayers::Count(wanted), _) => Ok(wanted.min(all)),
        (GpuLayers::Auto, DeviceMemory::Boards) => Ok(all),
        (GpuLayers::Auto, DeviceMemory::Own) => {
            let free: u64 = devices.iter().map(|device| device.free).sum();
            most(all, free.saturating_sub(MARGIN), &mut takes)
        }
    }
}

/// The most layers that take no more than `room`.
fn most<E>(all: u32, room: u64, takes: &mut impl FnMut(u32) -> Result<u64, E>) -> Result<u32, E> {
    if takes(all)? <= room {
        return Ok(all);
    }
    let (mut fits, mut too_many) = (0, all);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if takes(middle)? <= room { fits = middle } else { too_many = middle }
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn device(memory: DeviceMemory, free: u64) -> Device {
        Device { name: "a GPU".to_owned(), memory, free }
    }

    /// Each layer takes 100 MiB.
    fn chosen(wanted: GpuLayers, devices: &[Device]) -> Result<u32, NoGpu> {
        layers(wanted, devices, 33, |layers| Ok(u64::from(layers) * (100 << 20)))
    }

    #[test]
    fn a_build_without_gpu_takes_none_and_says_so_where_some_are_wanted() {
        assert_eq!(chosen(GpuLayers::Auto, &[]), Ok(0));
        assert_eq!(chosen(GpuLayers::Count(0), &[]), Ok(0));
        assert_eq!(chosen(GpuLayers::Count(7), &[]), Err(NoGpu { wanted: 7 }));
    }

    #[test]
    fn one_memory_for_both_means_all_of_them() {
        assert_eq!(chosen(GpuLayers::Auto, &[device(DeviceMemory::Boards, 0)]), Ok(33));
        assert_eq!(chosen(GpuLayers::Count(3), &[device(DeviceMemory::Boards, 0)]), Ok(3));
    }

    #[test]
    fn a_card_gets_what_it_has_room_for() {
        let card = |free| [device(DeviceMemory::Own, free)];
        assert_eq!(chosen(GpuLayers::Auto, &card(24 * GIB)), Ok(33));
        assert_eq!(chosen(GpuLayers::Auto, &card(2 * GIB)), Ok(10));
        assert_eq!(chosen(GpuLayers::Auto, &card(GIB)), Ok(0));
        assert_eq!(chosen(GpuLayers::Count(99), &card(0)), Ok(33));
        let two = [device(DeviceMemory::Own, 2 * GIB), device(DeviceMemory::Own, GIB)];
        assert_eq!(chosen(GpuLayers::Auto, &two), Ok(20));
    }

    #[test]
    fn what_the_question_fails_with_is_told() {
        let failed =
            layers(GpuLayers::Auto, &[device(DeviceMemory::Own, GIB)], 33, |_| Err(NoGpu { wanted: 1 }));
        assert_eq!(failed, Err(NoGpu { wanted: 1 }));
    }
}
