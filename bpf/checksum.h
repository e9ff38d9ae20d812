/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One's complement sums (RFC 1071, RFC 1624).
 *
 * A sum is kept unfolded in 64 bits, of words as they lie in memory; so byte order
 * does not matter until it is stored. Bytes that stand at an odd offset enter a sum
 * with their two bytes swapped.
 */
#ifndef MIMICD_CHECKSUM_H
#define MIMICD_CHECKSUM_H

static __always_inline __u16 csum_fold64(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* What to add to a sum so that `part` is no longer in it. */
static __always_inline __u64 csum_without(__u64 part)
{
	return 0xffff - csum_fold64(part);
}

static __always_inline __u64 csum_swapped(__u64 sum)
{
	__u16 folded = csum_fold64(sum);

	return (__u16)(folded << 8 | folded >> 8);
}

static __always_inline __u64 csum_words(const __u32 *words, int count)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		sum += words[i];
	return sum;
}

/* The pseudo-header of RFC 9293 section 3.1 and RFC 8200 section 8.1. */
static __always_inline __u64 csum_pseudo(__u64 addresses, __u8 protocol, __u32 length)
{
	return addresses + bpf_htons(protocol) + bpf_htonl(length);
}

#endif
