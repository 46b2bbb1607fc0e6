//! Counters that know their names.

/// Declares a struct of `u64` counters with names, sums and differences:
/// `counters! { /// Doc. Name { /// Doc. field, … } }`.
#[macro_export]
macro_rules! counters {
    ($(#[doc = $about:literal])+ $type:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        #[serde(default)]
        pub struct $type {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl $type {
            /// Name, description and value of each.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($name), concat!($($doc),+), self.$name),)+].into_iter()
            }

            /// What was counted since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name - earlier.$name,)+ }
            }

            /// Adds what another has counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)+
            }
        }
    };
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "what the macro declares is public")]
mod tests {
    counters! {
        /// Two.
        Two {
            /// The one.
            one,
            /// The other,
            /// at length.
            other,
        }
    }

    #[test]
    fn growth_sums_and_names() {
        let mut all = Two { one: 5, other: 2 };
        let grown = all.since(&Two { one: 3, other: 2 });
        assert_eq!(grown, Two { one: 2, other: 0 });
        all.add(&grown);
        assert_eq!(all.one, 7);
        let named: Vec<_> = all.named().collect();
        assert_eq!(named, [("one", " The one.", 7), ("other", " The other, at length.", 2)]);
    }
}
