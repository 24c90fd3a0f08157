//! Layers inside one encoding: which packets a subscriber gets, and what is changed in them so that its
//! decoder sees one continuous stream.
//!
//! A [`reader::LayerReader`] of each encoding reads every packet once. A [`selector::Selector`] of a subscription
//! decides, frame by frame, whether a packet goes out, and a [`munger::Munger`] gives it its numbers. Both exist only
//! for subscriptions that do not take all of one encoding.

pub mod history;
pub mod info;
pub mod munger;
pub mod numbering;
pub mod reader;
pub mod selector;
pub mod sent;
pub mod structures;
