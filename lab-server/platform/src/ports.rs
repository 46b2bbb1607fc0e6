//! The ports that clients may come from.

/// The range of ports that this machine (or network namespace) gives to clients.
///
/// # Errors
/// When it cannot be read.
pub fn port_range() -> std::io::Result<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => Err(std::io::Error::other(format!("'{}' is no range of ports", text.trim()))),
    }
}
