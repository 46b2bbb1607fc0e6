//! Congestion controls that programs may choose: the kernel is asked with a socket of this
//! process, which also loads a module where that may be.

use std::io;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket, sockopt};
use spec::UsageError;

/// The longest name, in bytes: TCP_CA_NAME_MAX of the kernel without the zero at its end.
const LONGEST: usize = 15;

/// Whether a socket of this process can have a congestion control.
fn choose(name: &str) -> Result<(), Errno> {
    // The kernel would take the part before it, and cuts off what is too long.
    if name.contains('\0') || name.len() > LONGEST {
        return Err(Errno::NOENT);
    }
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_tcp_congestion(&socket, name)
}

fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
}

/// Whether a process without rights may choose it.
pub(crate) fn is_for_everybody(name: &str) -> bool {
    sysctl("tcp_allowed_congestion_control").split_whitespace().any(|it| it == name)
}

/// Whether this process may choose it: no program that it starts may choose more.
///
/// # Errors
/// [`UsageError`]: the kernel does not have it, or it is for others alone. What the system says.
pub fn check(name: &str) -> anyhow::Result<()> {
    let refused =
        |why: String| Err(UsageError::error(format!("network.congestion: {name}: {why}")));
    match choose(name) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::INVAL) => {
            let has = sysctl("tcp_available_congestion_control");
            refused(format!("the kernel has no such congestion control, but {}", has.trim()))
        }
        Err(Errno::PERM) => {
            let allowed = sysctl("tcp_allowed_congestion_control");
            refused(format!("it is for root alone here, and for everybody {}", allowed.trim()))
        }
        Err(error) => Err(io::Error::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked() {
        // The kernel is never without it, and it is for everybody unless somebody says otherwise.
        assert!(check("reno").is_ok() || !is_for_everybody("reno"));
        for name in ["none such", "", "a name that is longer than the kernel takes", "reno\0x"] {
            let error = check(name).expect_err(name);
            assert!(error.is::<UsageError>(), "{name}: {error}");
            let text = error.to_string();
            assert!(text.contains("has no such congestion control, but "), "{text}");
            assert!(text.contains("reno"), "it says which there are: {text}");
            assert!(!is_for_everybody(name), "{name}");
        }
    }
}
