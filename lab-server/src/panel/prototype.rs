//! The prototype's own requests, as its scripts send them with curl.

use serde::Deserialize;

use super::commands::Command;

/// `GET /yaohongbao?qps=200&sum=40000`: packets to be shaken, so many a second, so many in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct YaoHongBao {
    qps: u32,
    sum: u64,
}

impl From<YaoHongBao> for Command {
    fn from(asked: YaoHongBao) -> Self {
        let YaoHongBao { qps, sum } = asked;
        Command::StartGenerator { rate: qps, total: Some(sum), users: None, seed: None }
    }
}

/// `GET /fahongbao?qps=200&sum=20000&min=0&max=599999`: packets sent to three users of `[min, max)`.
/// Negative numbers lose their sign and a descending range is turned round, as the prototype does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct FaHongBao {
    qps: u32,
    sum: u64,
    min: i32,
    max: i32,
}

impl From<FaHongBao> for Command {
    fn from(asked: FaHongBao) -> Self {
        let (min, max) = (asked.min.unsigned_abs(), asked.max.unsigned_abs());
        let users = Some((min.min(max), min.max(max)));
        Command::StartGenerator { rate: asked.qps, total: Some(asked.sum), users, seed: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_prototype_reads_them() {
        for (min, max, expected) in [(0, 9, (0, 9)), (9, 0, (0, 9)), (-9, 3, (3, 9))] {
            let command = FaHongBao { qps: 1, sum: 2, min, max }.into();
            let users = Some(expected);
            let wanted = Command::StartGenerator { rate: 1, total: Some(2), users, seed: None };
            assert_eq!(wanted, command);
        }
    }
}
