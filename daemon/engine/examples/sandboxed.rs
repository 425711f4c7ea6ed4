//! Enters the engine's sandbox and tries things in it; the test `sandbox` starts it and asserts on each.
//!
//! `sandboxed MODEL OTHER ATTEMPT…`: `MODEL` is the file that the sandbox leaves open, `OTHER` another one in the same
//! folder. The first line of the output is the sandbox's report; each attempt adds a line with its name and `ok` or the
//! number of the error. An attempt that ends the process has no line.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use hearth_engine::inspect;
use hearth_engine::process::resident::Resident;
use hearth_engine::process::{Spec, sandbox};
use libc::c_long;

/// What attempts are made on.
struct Place {
    model: PathBuf,
    other: PathBuf,
    /// Does not exist.
    new: PathBuf,
    memory: Resident,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(model), Some(other)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let (model, other) = (PathBuf::from(model), PathBuf::from(other));
    let place = Place { new: other.with_extension("new"), memory: Resident::open(), model, other };
    let report = sandbox::enter(&Spec { model: place.model.clone(), parent: 0, oom_score_adj: 0 });
    say(&format!("sandbox {report}"));
    for attempt in arguments {
        let attempt = attempt.to_string_lossy();
        let outcome = match place.attempt(&attempt) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |number| number.to_string()),
        };
        say(&format!("{attempt} {outcome}"));
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    // A reader that has gone learns nothing more anyway.
    writeln!(io::stdout(), "{line}").ok();
}

impl Place {
    fn attempt(&self, attempt: &str) -> io::Result<()> {
        let Self { model, other, new, memory } = self;
        let folder = other.parent().unwrap_or(Path::new("/"));
        match attempt {
            "read-model" => fs::read(model).map(drop),
            "check-model" => inspect::check(model).map(drop).map_err(io::Error::other),
            "write-model" => OpenOptions::new().write(true).open(model).map(drop),
            "append-to-model" => OpenOptions::new().append(true).open(model).map(drop),
            "change-mode-of-model" => fs::set_permissions(model, Permissions::from_mode(0o777)),
            "read-other" => File::open(other).map(drop),
            "write-other" => OpenOptions::new().write(true).open(other).map(drop),
            "remove-other" => fs::remove_file(other),
            "rename-other" => fs::rename(other, new),
            "link-other" => fs::hard_link(other, new),
            "make-file" => File::create(new).map(drop),
            "make-folder" => fs::create_dir(new),
            "list-folder" => fs::read_dir(folder).map(drop),
            "read-users" => fs::read("/etc/passwd").map(drop),
            "listen-tcp" => TcpListener::bind("127.0.0.1:0").map(drop),
            "connect-tcp" => TcpStream::connect("127.0.0.1:1").map(drop),
            "bind-udp" => UdpSocket::bind("127.0.0.1:0").map(drop),
            "listen-unix" => UnixListener::bind(new).map(drop),
            "connect-unix" => UnixStream::connect(new).map(drop),
            "pair-of-sockets" => UnixStream::pair().map(drop),
            "start-program" => Command::new("/bin/true").spawn().map(drop),
            "become-program" => Err(Command::new("/bin/true").exec()),
            "signal-parent" => Ok(rustix::process::kill_process(parent()?, rustix::process::Signal::CONT)?),
            "look-at-memory" => memory.bytes().map(drop),
            "thread" => in_thread(|| Ok(())),
            "read-other-in-thread" => {
                let other = other.clone();
                in_thread(move || File::open(other).map(drop))
            }
            "connect-in-thread" => in_thread(|| TcpStream::connect("127.0.0.1:1").map(drop)),
            "abort" => std::process::abort(),
            "panic" => panic!("as it was told"),
            _ => raw(attempt),
        }
    }
}

fn parent() -> io::Result<rustix::process::Pid> {
    rustix::process::getppid().ok_or_else(|| io::Error::other("no parent"))
}

fn in_thread(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().spawn(work)?.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}

/// System calls that no safe function makes.
fn raw(attempt: &str) -> io::Result<()> {
    const PAGE: c_long = 4096;
    let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let child = c_long::from(libc::SIGCHLD);
    let (number, arguments) = match attempt {
        // Both would come back twice.
        "fork" => (libc::SYS_clone, [child, 0, 0, 0, 0, 0]),
        "new-namespace" => (libc::SYS_clone, [child | c_long::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0]),
        "clone3" => (libc::SYS_clone3, [0; 6]),
        "openat2" => (libc::SYS_openat2, [0; 6]),
        "io-uring" => (libc::SYS_io_uring_setup, [0; 6]),
        "seccomp" => (libc::SYS_seccomp, [0; 6]),
        "executable-memory" => (libc::SYS_mmap, [0, PAGE, executable, anonymous, -1, 0]),
        "forget-parent" => (libc::SYS_prctl, [c_long::from(libc::PR_SET_PDEATHSIG), 0, 0, 0, 0, 0]),
        "raise-limit" => (libc::SYS_prlimit64, [0, 4, PAGE, 0, 0, 0]),
        "ptrace" => (libc::SYS_ptrace, [0; 6]),
        "read-memory-of-others" => (libc::SYS_process_vm_readv, [0; 6]),
        "bpf" => (libc::SYS_bpf, [0; 6]),
        "perf" => (libc::SYS_perf_event_open, [0; 6]),
        "keys" => (libc::SYS_keyctl, [0; 6]),
        "userfaultfd" => (libc::SYS_userfaultfd, [0; 6]),
        "mount" => (libc::SYS_mount, [0; 6]),
        "unshare" => (libc::SYS_unshare, [0; 6]),
        "enter-namespace" => (libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        "open-by-handle" => (libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0, 0]),
        "load-module" => (libc::SYS_finit_module, [-1, 0, 0, 0, 0, 0]),
        "reboot" => (libc::SYS_reboot, [0; 6]),
        "x32" => (0x4000_0000 | libc::SYS_getpid, [0; 6]),
        _ => return Err(io::Error::other("no such attempt")),
    };
    match call(number, arguments) {
        // The child of a fork that should not have come to be.
        0 if number == libc::SYS_clone => std::process::abort(),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "attempts are made with calls that no wrapper makes")]
fn call(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    // SAFETY: pointers among the arguments are null or below the first page that can be mapped, so that the kernel
    // answers with an error where the sandbox lets the call through; `mmap` makes new memory that nobody uses.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}
