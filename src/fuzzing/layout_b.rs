//! Makes a new image one of layout B, as a program that has this layout lays it out. The integration tests include
//! this file.

/// Puts the fields of the zoned extension and the flags of the table's entries where layout B has them. `read` and
/// `write` are the image's: offset and length, offset and bytes.
pub(crate) fn rewrite(read: impl Fn(u64, usize) -> Vec<u8>, write: impl Fn(u64, &[u8])) {
    let mut at = 112;
    while read(at, 4) != 0x007a_6264u32.to_be_bytes() {
        let len = u32::from_be_bytes(read(at + 4, 4).try_into().unwrap());
        at += 8 + u64::from(len.next_multiple_of(8));
    }
    let v7 = read(at + 8, 48);
    let wide = |field: &[u8]| [&[0; 4], field].concat();
    let (zone_size, capacity, conventional, zones) = (&v7[4..8], &v7[8..12], &v7[12..16], &v7[16..20]);
    let (limits, table) = (&v7[20..28], &v7[40..48]);
    let b = [&v7[..4], zones, &wide(zone_size), &wide(capacity), table, conventional, limits, &[0; 4]].concat();
    write(at + 4, &44u32.to_be_bytes());
    write(at + 8, &b);
    let table = u64::from_be_bytes(table.try_into().unwrap());
    for zone in 0..u32::from_be_bytes(conventional.try_into().unwrap()).into() {
        let entry = u64::from_be_bytes(read(table + zone * 8, 8).try_into().unwrap());
        write(table + zone * 8, &(entry ^ (1 << 59 | 1 << 63)).to_be_bytes());
    }
}
