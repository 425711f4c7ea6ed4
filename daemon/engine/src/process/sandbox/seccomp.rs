//! System calls: those that an engine makes, and no others.
//!
//! It is a list of what is allowed. A list of what is denied would be shorter, but is never done: kernels grow, and
//! what they grow is what attacks use. What speaks against such a list is that a C library, or the one of OpenMP, may
//! make another call on another system. So the list holds what is harmless and not only what was seen; and what is not
//! on it fails without ending the process, in the way that libraries know how to live with:
//!
//! | call | outcome |
//! |---|---|
//! | on the list, with arguments that are | goes through |
//! | from the time when numbers became common to all architectures (`clone3`, `openat2`, `io_uring_*`, …) | ENOSYS, upon which libraries take the older call, whose arguments can be seen |
//! | any other | EPERM |
//! | in [`NEVER`], another architecture's, x32's | the process dies by SIGSYS, and the front says so |
//!
//! Each outcome but the first is a filter of its own; of several the kernel takes the most severe, and of several
//! errors that of the filter that came last.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule,
};

use super::{Held, Outcome};

/// System calls, each with the ways to make it; without any, every way is meant.
type Calls = BTreeMap<c_long, Vec<Rule>>;

/// Harmless whatever their arguments are: they reach this process only, or what it has open.
const ALWAYS: &[c_long] = &[
    // What is open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    // Waiting, and waking the loop that waits.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    // The link. No other socket can come to be, and a connected stream takes no address.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Threads.
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    FUTEX_WAKE,
    FUTEX_WAIT,
    FUTEX_REQUEUE,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getpriority,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals that come; those that go are below.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, chance, and who this is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getcwd,
    // For the filters that follow; the last of them takes it away.
    libc::SYS_seccomp,
];

/// Older forms of the above, which only this architecture has. `arch_prctl`: AMX is asked for with it.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[c_long] = &[];

/// What CUDA's libraries do beside that, to find files and to place memory.
const ALWAYS_WITH_CUDA: &[c_long] = &[
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_statfs,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    // Their control calls carry pointers to more; the driver's own checks are what there is.
    libc::SYS_ioctl,
    // Kernels of a GPU and helpers on the CPU are compiled as they are needed, and libraries loaded.
    libc::SYS_mmap,
    libc::SYS_mprotect,
    // Devices are opened for writing; Landlock says which.
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// What no honest library tries: it looks into other processes, changes the system, or leaves the sandbox's kind of
/// process. Who makes such a call has been taken over. In a build for CUDA they are denied like all others: nobody
/// outside knows what its closed libraries try.
const NEVER: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[];

/// Since Linux 5.1 numbers are common to all architectures, from this one on; the end leaves room for calls to come.
const COMMON: std::ops::Range<c_long> = libc::SYS_pidfd_send_signal..512;

// Not in the libc crate.
const FUTEX_WAKE: c_long = 454;
const FUTEX_WAIT: c_long = 455;
const FUTEX_REQUEUE: c_long = 456;
/// `prctl`: gives a name to memory, as glibc does on request.
const PR_SET_VMA: c_int = 0x5356_4d41;
/// `prctl`: length of a vector on ARM, which ggml asks for.
const PR_SVE_GET_VL: c_int = 51;
const PR_SME_GET_VL: c_int = 64;

/// Flags of `clone`: a thread, and none of the namespaces that a thread could still be given.
const THREAD: c_int = libc::CLONE_THREAD;
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Why there are no filters.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error(transparent)]
    Compile(#[from] BackendError),
    #[error("this kernel has none")]
    None,
    #[error(transparent)]
    Install(seccompiler::Error),
}

impl From<seccompiler::Error> for FilterError {
    /// EINVAL: a kernel that knows the call, but no filters.
    fn from(error: seccompiler::Error) -> Self {
        match &error {
            seccompiler::Error::Prctl(cause) | seccompiler::Error::Seccomp(cause)
                if matches!(cause.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                Self::None
            }
            _ => Self::Install(error),
        }
    }
}

/// Restricts this thread and those that it makes.
pub(super) fn restrict() -> Outcome {
    install().map_err(|error| error.to_string())?;
    Ok(Held { name: "seccomp".to_owned(), open: Vec::new() })
}

fn install() -> Result<(), FilterError> {
    // All are compiled before the first holds: a half sandbox would only be in the way.
    for program in programs()? {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// In the order in which they are to be installed.
fn programs() -> Result<Vec<BpfProgram>, BackendError> {
    let allowed = allowed(std::process::id())?;
    let never = if cfg!(feature = "cuda") { Calls::new() } else { unconditional(&[NEVER, NEVER_HERE]) };
    let unknown = COMMON.filter(|call| !allowed.contains_key(call) && !never.contains_key(call));
    let unknown: Calls = unknown.chain([libc::SYS_seccomp]).map(|call| (call, Vec::new())).collect();
    let errno = |number: c_int| SeccompAction::Errno(number.unsigned_abs());
    let filters = [
        (never, SeccompAction::Allow, SeccompAction::KillProcess),
        (allowed, errno(libc::EPERM), SeccompAction::Allow),
        (unknown, SeccompAction::Allow, errno(libc::ENOSYS)),
    ];
    let arch = std::env::consts::ARCH.try_into()?;
    let compile = |(calls, other, listed)| SeccompFilter::new(calls, other, listed, arch)?.try_into();
    std::iter::once(Ok(no_x32())).chain(filters.into_iter().map(compile)).collect()
}

fn unconditional(lists: &[&[c_long]]) -> Calls {
    lists.iter().flat_map(|list| list.iter()).map(|call| (*call, Vec::new())).collect()
}

fn allowed(pid: u32) -> Result<Calls, BackendError> {
    let mut calls = limited(pid)?;
    calls.append(&mut unconditional(&[ALWAYS, ALWAYS_HERE]));
    if cfg!(feature = "cuda") {
        calls.append(&mut unconditional(&[ALWAYS_WITH_CUDA]));
    }
    Ok(calls)
}

/// Allowed with some arguments only.
fn limited(pid: u32) -> Result<Calls, BackendError> {
    let own = || one_of(0, &[pid]);
    let calls = [
        (libc::SYS_clone, vec![all([flags(0, THREAD | NAMESPACES, THREAD)?])?]),
        (libc::SYS_openat, vec![all([reading(2)?])?]),
        (libc::SYS_mmap, vec![all([flags(2, libc::PROT_EXEC, 0)?])?]),
        (libc::SYS_mprotect, vec![all([flags(2, libc::PROT_EXEC, 0)?])?]),
        // `abort` ends this process by a signal to itself.
        (libc::SYS_kill, own()?),
        (libc::SYS_tgkill, own()?),
        (libc::SYS_ioctl, one_of(1, &[0x5421 /* FIONBIO */, 0x541b /* FIONREAD */, 0x5401 /* TCGETS */])?),
        (
            libc::SYS_fcntl,
            numbers(
                1,
                &[
                    libc::F_DUPFD,
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_GETFL,
                    libc::F_SETFL,
                ],
            )?,
        ),
        (
            libc::SYS_prctl,
            numbers(
                0,
                &[
                    libc::PR_SET_NAME,
                    libc::PR_GET_NAME,
                    PR_SET_VMA,
                    PR_SVE_GET_VL,
                    PR_SME_GET_VL,
                    // For the filters that follow; nothing undoes it.
                    libc::PR_SET_NO_NEW_PRIVS,
                ],
            )?,
        ),
        // Its own limits may be read.
        (libc::SYS_prlimit64, vec![all([zero(0)?, Condition::new(2, Length::Qword, Is::Eq, 0)?])?]),
        // Its own threads, one at a time.
        (libc::SYS_setpriority, vec![all([zero(0)?, zero(1)?])?]),
        (libc::SYS_sched_setaffinity, vec![all([zero(0)?])?]),
        (libc::SYS_sched_setattr, vec![all([zero(0)?])?]),
        (libc::SYS_sched_setscheduler, vec![all([zero(0)?])?]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![all([reading(1)?])?]),
    ];
    Ok(calls.into())
}

/// Nothing is written, made or cut.
fn reading(argument: u8) -> Result<Condition, BackendError> {
    flags(argument, libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC, libc::O_RDONLY)
}

fn flags(argument: u8, mask: c_int, value: c_int) -> Result<Condition, BackendError> {
    let [mask, value] = [mask, value].map(bits);
    Condition::new(argument, Length::Dword, Is::MaskedEq(mask.into()), value.into())
}

fn zero(argument: u8) -> Result<Condition, BackendError> {
    Condition::new(argument, Length::Dword, Is::Eq, 0)
}

fn all<const N: usize>(conditions: [Condition; N]) -> Result<Rule, BackendError> {
    Rule::new(conditions.into())
}

fn one_of(argument: u8, values: &[u32]) -> Result<Vec<Rule>, BackendError> {
    let equal = |value: &u32| Condition::new(argument, Length::Dword, Is::Eq, u64::from(*value));
    values.iter().map(|value| all([equal(value)?])).collect()
}

fn numbers(argument: u8, values: &[c_int]) -> Result<Vec<Rule>, BackendError> {
    let values: Vec<u32> = values.iter().copied().map(bits).collect();
    one_of(argument, &values)
}

/// As the kernel sees it in a register's lower half.
const fn bits(number: c_int) -> u32 {
    number.cast_unsigned()
}

/// x32 calls come under the number of x86-64's architecture, with this bit in the call's own; whole ranges are nothing
/// that the crate can say.
fn no_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let statement = |code: u32, jt, jf, k| {
        // The kernel's constants are of one type, its instructions of another.
        let code = u16::try_from(code).expect("codes of instructions have 16 bits");
        seccompiler::sock_filter { code, jt, jf, k }
    };
    vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_filters_compile_for_this_architecture() {
        assert_eq!(programs().unwrap().len(), 4);
    }

    #[test]
    fn a_kernel_without_filters_is_told_from_one_that_refuses() {
        let failed =
            |number| FilterError::from(seccompiler::Error::Seccomp(io::Error::from_raw_os_error(number)));
        assert!(matches!(failed(libc::ENOSYS), FilterError::None));
        assert!(matches!(failed(libc::EINVAL), FilterError::None));
        assert!(matches!(failed(libc::EACCES), FilterError::Install(_)));
    }

    #[test]
    fn nothing_is_both_allowed_and_deadly() {
        let allowed = allowed(1).unwrap();
        let both: Vec<_> = NEVER.iter().chain(NEVER_HERE).filter(|call| allowed.contains_key(call)).collect();
        assert!(both.is_empty(), "{both:?}");
    }

    #[test]
    fn what_makes_sockets_programs_or_processes_is_nowhere_allowed() {
        let allowed = allowed(1).unwrap();
        for call in [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!allowed.contains_key(&call), "{call}");
        }
        assert!(!allowed[&libc::SYS_clone].is_empty());
    }
}
