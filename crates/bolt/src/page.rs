// SPDX-License-Identifier: Apache-2.0
use types::Result;

use super::damaged;

const HEADER: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const BRANCH_ELEMENT: usize = 16;
const LEAF_ELEMENT: usize = 16;
const IS_BUCKET: u32 = 0x01;

/// A page with what overflows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    bytes: &'a [u8],
}

/// A key of a leaf page, and what it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) is_bucket: bool,
}

impl<'a> Page<'a> {
    /// The page that `bytes` begin with.
    pub(super) fn first(bytes: &'a [u8], size: usize) -> Option<Self> {
        let overflow = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?) as usize;
        let len = overflow.checked_add(1)?.checked_mul(size)?;
        Some(Self { bytes: bytes.get(..len)? })
    }

    /// The page that `bytes` are.
    pub(super) fn whole(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= HEADER).then_some(Self { bytes })
    }

    pub(super) fn id(&self) -> u64 {
        self.number(0)
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.flags() == LEAF
    }

    fn flags(&self) -> u16 {
        u16::from_le_bytes([self.bytes[8], self.bytes[9]])
    }

    fn count(&self) -> usize {
        u16::from_le_bytes([self.bytes[10], self.bytes[11]]).into()
    }

    /// The eight bytes at `at`, or 0 past the end: whoever asks has looked at the length.
    fn number(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }

    fn small(&self, at: usize) -> usize {
        let bytes = self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes) as usize
    }

    /// The first key of each page below, and its number.
    pub(super) fn branches(&self) -> Result<Vec<(&'a [u8], u64)>> {
        if self.flags() != BRANCH {
            return Err(damaged(format!("page of kind {:#x} in a tree", self.flags())));
        }
        let element = |at: usize| {
            let begin = HEADER + at * BRANCH_ELEMENT;
            let key = self.slice(begin, self.small(begin), self.small(begin + 4))?;
            Some((key, self.number(begin + 8)))
        };
        let all: Option<_> = (0..self.count()).map(element).collect();
        all.ok_or_else(|| damaged("a branch points outside of its page"))
    }

    pub(super) fn leaves(&self) -> Result<Vec<Leaf<'a>>> {
        let element = |at: usize| {
            let begin = HEADER + at * LEAF_ELEMENT;
            let (pos, key_len) = (self.small(begin + 4), self.small(begin + 8));
            let key = self.slice(begin, pos, key_len)?;
            let value = self.slice(begin, pos.checked_add(key_len)?, self.small(begin + 12))?;
            let is_bucket = self.small(begin) as u32 & IS_BUCKET != 0;
            Some(Leaf { key, value, is_bucket })
        };
        let all: Option<_> = (0..self.count()).map(element).collect();
        all.ok_or_else(|| damaged("a leaf points outside of its page"))
    }

    fn slice(&self, element: usize, pos: usize, len: usize) -> Option<&'a [u8]> {
        let begin = element.checked_add(pos)?;
        self.bytes.get(begin..begin.checked_add(len)?)
    }
}
