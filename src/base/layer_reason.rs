//! Why a subscriber gets the layer it gets. In `base`, because what decides (`media`) and what tells (`control` and
//! `signaling`) do not know each other.

use std::fmt;

macro_rules! layer_reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a subscriber gets the layer it gets, and not more.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum LayerReason {
            $($(#[$doc])* $name,)*
        }

        impl LayerReason {
            /// Every reason, in the order of their definition: that of [`LayerReason::index`].
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason on the wire and in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

layer_reasons! {
    /// There is nothing better: the publisher sends no higher layer.
    Best => "best",
    /// The client asked for no more: the layer covers the wanted size and frame rate.
    Wanted => "wanted",
    /// The estimate of what the subscriber's network carries does not allow more.
    Bandwidth => "bandwidth",
    /// The server is too busy to forward more.
    Cpu => "cpu",
    /// A better layer is chosen, and starts with its next keyframe.
    NoKeyframeYet => "no-keyframe-yet",
    /// The publisher sends nothing at present.
    PublisherMuted => "publisher-muted",
    /// The publisher is not among the speakers whose video is forwarded.
    LastN => "last-n",
    /// The client paused it.
    Paused => "paused",
    /// The publisher has announced a higher layer that it does not send at present.
    NotSent => "not-sent",
}

impl LayerReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place among [`LayerReason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for LayerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reasons_are_distinct_kebab_case_and_know_their_place() {
        let texts: HashSet<_> = LayerReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(texts.len(), LayerReason::COUNT);
        for (index, reason) in LayerReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            let is_kebab = |b: u8| b.is_ascii_lowercase() || b == b'-';
            assert!(reason.as_str().bytes().all(is_kebab), "{reason}");
        }
    }
}
