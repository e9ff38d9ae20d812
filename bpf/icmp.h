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

#endif
