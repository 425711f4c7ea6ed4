//! The time slice of the engine's threads.
//!
//! A step has about a thousand places where its threads wait for each other, each much shorter than the
//! slice of some milliseconds that the kernel gives by default. Beside other busy threads of the same
//! weight, a thread that others wait for then sits out whole foreign slices. With a short slice of its own
//! it comes on again soon, and runs as much in all as it would otherwise.

use std::{io, time::Duration};

/// The slice asked for, the shortest that the kernel allows. Kernels from 6.12 on take the runtime of a
/// `SCHED_OTHER` thread as its EEVDF slice, 0.1 ms to 100 ms (Linux 6.12, `__setparam_fair` in
/// kernel/sched/syscalls.c); no privilege is needed.
pub const SLICE: Duration = Duration::from_micros(100);

/// Asks for [`SLICE`] for the calling thread and the threads that it makes from now on. Kernels before 6.12
/// accept the call and ignore the slice; under a real-time policy there is none, and the call fails.
///
/// # Errors
/// What the system call says, such as EPERM from a container's filter; the process can go on without.
#[expect(unsafe_code, reason = "sched_setattr has no safe wrapper in rustix, nix or libc")]
pub fn shorten() -> io::Result<()> {
    // The call sets the policy and the nice value too: those in force stay.
    let nice = rustix::process::getpriority_process(None)?;
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?,
        sched_policy: 0,
        sched_flags: u64::try_from(libc::SCHED_FLAG_KEEP_POLICY).map_err(io::Error::other)?,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: u64::try_from(SLICE.as_nanos()).map_err(io::Error::other)?,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (this_thread, flags) = (0, 0);
    // SAFETY: the kernel reads `size` bytes of `attributes`, which is a live value of exactly that size, and
    // writes nothing into this process; the two other arguments are plain numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setattr, this_thread, std::ptr::from_ref(&attributes), flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn a_thread_gets_its_slice_and_keeps_its_nice_value() {
        std::thread::spawn(|| {
            let nice = || rustix::process::getpriority_process(None).unwrap();
            let before = nice();
            shorten().unwrap();
            assert_eq!(nice(), before);
        })
        .join()
        .unwrap();
    }
}
