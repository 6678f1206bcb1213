//! What a world has seen.

/// Counts by these names, which are all of the same kind: how often something has happened.
macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// What a world has seen, and how often.
        #[derive(Debug, Default, PartialEq, Eq)]
        pub(super) struct Seen {
            $(pub(super) $name: usize,)*
        }

        impl Seen {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Whether everything was seen at least once.
            pub(super) fn is_all(&self) -> bool {
                [$(self.$name),*].into_iter().all(|count| count != 0)
            }
        }
    };
}

counts! {
    requests,
    failures,
    deaths,
    resumed,
    power_losses,
    cuts,
    cut_deaths,
    torn,
    resets_lost,
    data_lost,
    stops,
    moves,
    resets,
    full,
    slept,
}
