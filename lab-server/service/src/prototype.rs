//! The prototype's own requests, as its scripts send them with curl.

use serde::Deserialize;

use crate::commands::Command;

/// `GET /yaohongbao?qps=200&sum=40000`: packets to be shaken, so many a second, so many in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct YaoHongBao {
    qps: u32,
    sum: u64,
}

impl From<YaoHongBao> for Command {
    fn from(asked: YaoHongBao) -> Self {
        generator(asked.qps, asked.sum, None)
    }
}

/// `GET /fahongbao?qps=200&sum=20000&min=0&max=599999`: packets sent to three users of `[min,
/// max)`. Negative numbers lose their sign and a descending range is turned round, as the prototype
/// does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct FaHongBao {
    qps: u32,
    sum: u64,
    min: i32,
    max: i32,
}

impl From<FaHongBao> for Command {
    fn from(asked: FaHongBao) -> Self {
        let (min, max) = (asked.min.unsigned_abs(), asked.max.unsigned_abs());
        generator(asked.qps, asked.sum, Some((min.min(max), min.max(max))))
    }
}

fn generator(rate: u32, sum: u64, users: Option<(u32, u32)>) -> Command {
    let (seed, from, until) = (None, None, None);
    Command::StartGenerator { rate, total: Some(sum), users, seed, from, until }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_prototype_reads_them() {
        for (min, max, expected) in [(0, 9, (0, 9)), (9, 0, (0, 9)), (-9, 3, (3, 9))] {
            let command = FaHongBao { qps: 1, sum: 2, min, max }.into();
            assert_eq!(generator(1, 2, Some(expected)), command);
        }
    }
}
