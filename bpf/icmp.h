/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The answer to a datagram that no longer fits once it is disguised: fragmentation
 * needed (RFC 1191 section 4) or packet too big (RFC 4443 section 3.2), as a router
 * one hop away would send it.
 */
#ifndef MIMICD_ICMP_H
#define MIMICD_ICMP_H

#define ICMP_HEADER 8
#define IPV6_MTU_LEAST 1280
#define IPPROTO_ICMPV6_ 58

/*
 * The same from a router on the way, which quotes the segment that did not fit: a message of
 * either family as far as the first bytes of the quoted transport header.
 */
struct icmp_quote4 {
	__u8 type, code;
	__sum16 check;
	__be16 unused, mtu;
	struct iphdr ip;
	__be16 source, dest;
	__be32 seq; /* of UDP: length and checksum */
};

struct icmp_quote6 {
	__u8 type, code;
	__sum16 check;
	__be32 mtu;
	struct ipv6hdr ip;
	__be16 source, dest;
	__be32 seq;
};

#define QUOTE4_WORDS (sizeof(struct icmp_quote4) / 4)
#define QUOTE6_WORDS (sizeof(struct icmp_quote6) / 4)
#define IPV4_MTU_LEAST 68

/* The MTU that the sender has to keep to. */
static __always_inline __u32 icmp_mtu(const struct packet *p, __u32 mtu, __u32 padding)
{
	mtu -= TCP_HEADER - UDP_HEADER + padding;
	return p->v6 && mtu < IPV6_MTU_LEAST ? IPV6_MTU_LEAST : mtu;
}

/* Type, code, checksum 0, next-hop MTU. */
static __always_inline void icmp_header(__u8 out[ICMP_HEADER], const struct packet *p, __u32 mtu)
{
	out[0] = p->v6 ? 2 : 3;
	out[1] = p->v6 ? 0 : 4;
	out[2] = out[3] = 0;
	out[4] = mtu >> 24;
	out[5] = mtu >> 16;
	out[6] = mtu >> 8;
	out[7] = mtu;
}

/* What the checksum becomes when words whose sum was `before` are exchanged for others. */
static __always_inline __sum16 icmp_check(__sum16 check, __u64 before, __u64 after)
{
	return ~csum_fold64((__u16)~check + csum_without(before) + after);
}

/* It quotes a segment, and now the datagram in it, which is `grown` bytes shorter. 0: done. */
static __always_inline int icmp_retell4(struct icmp_quote4 *q, __u32 grown)
{
	__u32 mtu = bpf_ntohs(q->mtu), length = bpf_ntohs(q->ip.tot_len);
	__u64 before = csum_words((__u32 *)q, QUOTE4_WORDS);

	/* a router that tells no MTU leaves the guess to the sender (RFC 1191 section 5) */
	if ((mtu && mtu < IPV4_MTU_LEAST + grown) || length < sizeof(q->ip) + UDP_HEADER + grown)
		return -1;
	if (mtu)
		q->mtu = bpf_htons(mtu - grown);
	length -= grown;
	q->ip.tot_len = bpf_htons(length);
	q->ip.protocol = IPPROTO_UDP;
	q->ip.check = 0;
	q->ip.check = ~csum_fold64(csum_words((__u32 *)&q->ip, sizeof(q->ip) / 4));
	q->seq = bpf_htonl((length - sizeof(q->ip)) << 16);
	q->check = icmp_check(q->check, before, csum_words((__u32 *)q, QUOTE4_WORDS));
	return 0;
}

static __always_inline int icmp_retell6(struct icmp_quote6 *q, __u32 grown)
{
	__u32 mtu = bpf_ntohl(q->mtu), length = bpf_ntohs(q->ip.payload_len);
	__u64 before = csum_words((__u32 *)q, QUOTE6_WORDS);

	if (mtu < IPV6_MTU_LEAST || length < UDP_HEADER + grown)
		return -1;
	mtu -= grown;
	q->mtu = bpf_htonl(mtu < IPV6_MTU_LEAST ? IPV6_MTU_LEAST : mtu);
	length -= grown;
	q->ip.payload_len = bpf_htons(length);
	q->ip.nexthdr = IPPROTO_UDP;
	q->seq = bpf_htonl(length << 16);
	q->check = icmp_check(q->check, before, csum_words((__u32 *)q, QUOTE6_WORDS));
	return 0;
}

#endif
