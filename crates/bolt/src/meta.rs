// SPDX-License-Identifier: Apache-2.0

/// `magic` and `version` of bbolt's `internal/common/types.go`.
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// The header of a page comes before its contents.
const HEADER: usize = 16;

/// Where the tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: usize,
    pub(super) root: u64,
    pub(super) sequence: u64,
    transaction: u64,
}

/// The newer of the two meta pages. The second one is where the page size says, which the first one
/// says; if that is damaged, every size is tried.
pub(super) fn newest(bytes: &[u8]) -> Option<Meta> {
    let first = at(bytes, 0);
    let second = match first {
        Some(meta) => at(bytes, meta.page_size),
        None => (9..=16).find_map(|bits| at(bytes, 1 << bits).filter(|m| m.page_size == 1 << bits)),
    };
    first.into_iter().chain(second).max_by_key(|meta| meta.transaction)
}

/// The meta page at `offset`, if it is whole.
///
/// ```text
/// magic u32, version u32, page size u32, flags u32, root page u64, sequence u64,
/// free list u64, pages u64, transaction u64, checksum u64: FNV-1a of all before
/// ```
fn at(bytes: &[u8], offset: usize) -> Option<Meta> {
    let body = bytes.get(offset.checked_add(HEADER)?..)?.get(..64)?;
    let small = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let large = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let page_size = small(8)? as usize;
    let is_whole = small(0)? == MAGIC && small(4)? == VERSION && large(56)? == fnv(&body[..56]);
    (is_whole && page_size.is_power_of_two() && page_size >= 512).then_some(Meta {
        page_size,
        root: large(16)?,
        sequence: large(24)?,
        transaction: large(48)?,
    })
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
