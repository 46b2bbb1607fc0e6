//! Lists of CPUs on the command line.

/// CPUs in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// More CPUs than any machine has.
const MOST: usize = 4096;

impl CpuList {
    /// Reads `0,2`, `0-3`, and both together.
    ///
    /// # Errors
    /// What part of the text is no CPU.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.trim().parse::<usize>().map_err(|_| format!("'{text}' is no CPU"));
        let mut cpus = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => cpus.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || last - first > MOST {
                        return Err(format!("'{part}' is no range of CPUs"));
                    }
                    cpus.extend(first..=last);
                }
            }
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(CpuList::parse("0"), Ok(CpuList(vec![0])));
        assert_eq!(CpuList::parse("0-2,5"), Ok(CpuList(vec![0, 1, 2, 5])));
        for bad in ["", "a", "3-1", "0-", "0-99999999"] {
            assert!(CpuList::parse(bad).is_err(), "{bad}");
        }
    }
}
