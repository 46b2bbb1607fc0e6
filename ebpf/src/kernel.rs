//! System calls that aya and rustix do not wrap: what the kernel knows of a program's runs, and the
//! CPU time of a process.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of `struct bpf_prog_info`, up to what is read here.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramInfo {
    /// Numbers, tag, sizes, addresses, names: 192 bytes that are not read.
    unread: [u64; 24],
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
}

const _: () = assert!(std::mem::offset_of!(ProgramInfo, run_time_ns) == 192);

/// The arguments of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoArguments {
    fd: u32,
    length: u32,
    info: u64,
}

/// Runs of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// Time spent, 0 unless `kernel.bpf_stats_enabled` is set.
    pub(crate) time_ns: u64,
    /// How often it ran, likewise.
    pub(crate) count: u64,
    /// How often it was left out because it was running on the same CPU already.
    pub(crate) missed: u64,
}

/// What the kernel knows of a program's runs.
pub(crate) fn runs(program: BorrowedFd<'_>) -> io::Result<Runs> {
    let mut info =
        ProgramInfo { unread: [0; 24], run_time_ns: 0, run_count: 0, recursion_misses: 0 };
    let mut arguments = InfoArguments {
        fd: program.as_raw_fd().cast_unsigned(),
        length: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which outlives the call; zeroed
    // fields ask for no further output.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut arguments,
            size_of::<InfoArguments>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Runs { time_ns: info.run_time_ns, count: info.run_count, missed: info.recursion_misses })
}

/// CLOCK_MONOTONIC in nanoseconds: what the probes' clock reads.
pub(crate) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Both fields of a running clock are non-negative.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// CPU time of a process so far, in nanoseconds: that of all its threads, ended ones included.
pub(crate) fn cpu_ns(pid: u32) -> io::Result<u64> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: writes to a valid variable.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_that_has_ended_counts() {
        let pid = std::process::id();
        let before = cpu_ns(pid).expect("this process");
        let spin = || {
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            let thread = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            thread.tv_sec.unsigned_abs() * 1_000_000_000 + thread.tv_nsec.unsigned_abs()
        };
        let spun = std::thread::spawn(spin).join().expect("the thread");
        let now = cpu_ns(pid).expect("this process");
        assert!(spun > 0 && now - before >= spun, "{spun} of {}", now - before);
        assert!(cpu_ns(u32::MAX).is_err() && cpu_ns(4_194_305).is_err());
    }
}
