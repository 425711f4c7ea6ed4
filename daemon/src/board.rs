//! Readers of the machine that the daemon runs on. They report; what the numbers are for is decided
//! elsewhere. Each reads below a root folder, so that a test can show it another board.

pub mod charge;
pub mod memory;
pub mod oom;
pub mod pressure;
pub mod process;
pub mod sensors;
pub mod watch;
