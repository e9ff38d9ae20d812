/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the headers of a packet lie. Reads [data, end) and nothing else; decides
 * nothing. Callers make sure that the headers are linear.
 */
#ifndef MIMICD_PARSE_H
#define MIMICD_PARSE_H

#define VLAN_DEPTH 2
#define EXTENSION_HEADERS 8
#define HEADERS_MAX 320 /* link, IP with options or extension headers, TCP with options */

/* The common way through a program stays in one piece. */
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Keeps clang from replacing a bounds check that the verifier has to see. */
#define barrier_var(x) asm volatile("" : "+r"(x))

#define IP_OFFSET_MASK 0x1fff
#define IP_MORE_FRAGMENTS 0x2000
#define IP_DONT_FRAGMENT 0x4000

struct tcp_header {
	__be16 source, dest;
	__be32 seq, ack;
	__u8 offset; /* high half: header length in words */
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
};

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

struct extension_header {
	__u8 next;
	__u8 length; /* in 8 bytes, the first 8 not counted */
	__u8 rest[6];
};

enum fragment { NOT_FRAGMENT, FIRST_FRAGMENT, LATER_FRAGMENT };

struct packet {
	__u64 addresses;   /* sum of source and destination, see checksum.h */
	__u32 l3, l4;      /* offsets of the IP and the transport header */
	__u32 l4_len;      /* bytes from l4 to the end of the IP packet */
	__u32 protocol_at; /* offset of the byte that names the transport protocol */
	__u8 v6;
	__u8 protocol;
	__u8 fragment;
	__be16 source, dest; /* ports */
	__be16 word[2];      /* what follows them: of UDP the length and the checksum */
	__be32 src[4], dst[4];
};

/*
 * The offset of the IP header, and its EtherType; 0 where there is none of ours.
 * `has_link`: the frame begins with an Ethernet header though the interface has none.
 */
static __always_inline __u32 parse_link(void *data, void *end, int has_link, __be16 *protocol)
{
	__u32 at = L2_LEN;

#if L2_LEN
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return 0;
	*protocol = eth->h_proto;
#pragma unroll
	for (int i = 0; i < VLAN_DEPTH; i++) {
		struct vlan_header *vlan = data + at;

		if (likely(*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD)))
			break;
		if ((void *)(vlan + 1) > end)
			return 0;
		*protocol = vlan->protocol;
		at += sizeof(*vlan);
	}
#else
	__u8 *version;

	at = has_link ? sizeof(struct ethhdr) : 0;
	version = data + at;
	if ((void *)(version + 1) > end)
		return 0;
	*protocol = *version >> 4 == 6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
#endif
	return at;
}

/* The verifier forgets the bound of l3 once it has been in memory. */
static __always_inline void *ip_header(void *data, const struct packet *p)
{
	__u64 at = p->l3;

	barrier_var(at);
	return data + (at & 0x1f);
}

static __always_inline int parse_ipv4(void *data, void *end, struct packet *p)
{
	struct iphdr *ip = ip_header(data, p);
	__u32 header;
	__u16 offset;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return -1;
	header = ip->ihl * 4;
	if (bpf_ntohs(ip->tot_len) < header)
		return -1;
	offset = bpf_ntohs(ip->frag_off);
	p->fragment = offset & IP_OFFSET_MASK ? LATER_FRAGMENT :
		      offset & IP_MORE_FRAGMENTS ? FIRST_FRAGMENT : NOT_FRAGMENT;
	p->v6 = 0;
	p->protocol = ip->protocol;
	p->protocol_at = p->l3 + 9;
	p->l4 = p->l3 + header;
	p->l4_len = bpf_ntohs(ip->tot_len) - header;
	p->src[2] = p->dst[2] = bpf_htonl(0xffff);
	p->src[3] = ip->saddr;
	p->dst[3] = ip->daddr;
	p->addresses = (__u64)ip->saddr + ip->daddr;
	return 0;
}

static __always_inline int parse_ipv6(void *data, void *end, struct packet *p)
{
	struct ipv6hdr *ip = ip_header(data, p);
	__u64 at = p->l3;
	__u32 length;
	__u8 next;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return -1;
	next = ip->nexthdr;
	p->protocol_at = p->l3 + 6;
	length = bpf_ntohs(ip->payload_len);
	p->fragment = NOT_FRAGMENT;
	p->v6 = 1;
	__builtin_memcpy(p->src, &ip->saddr, 16);
	__builtin_memcpy(p->dst, &ip->daddr, 16);
	p->addresses = csum_words(p->src, 4) + csum_words(p->dst, 4);

	barrier_var(at);
	at = (at & 0x1f) + sizeof(*ip);
	/* A loop, not unrolled: nearly every packet leaves it at once. */
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		struct extension_header *ext = data + at;
		__u32 bytes;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if ((void *)(ext + 1) > end)
			return -1;
		bytes = next == IPPROTO_FRAGMENT ? 8 : 8 + 8 * (__u32)ext->length;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = ext->rest[0] << 8 | ext->rest[1];

			if (offset & 0xfff8)
				p->fragment = LATER_FRAGMENT;
			else if (offset & 1)
				p->fragment = FIRST_FRAGMENT;
		}
		next = ext->next;
		p->protocol_at = at;
		at += bytes;
		if (bytes > length || at > HEADERS_MAX)
			return -1;
		length -= bytes;
	}
	p->protocol = next;
	p->l4 = at;
	p->l4_len = length;
	return 0;
}

/*
 * `p` stands in a map, not on the stack: values from there are unknown to the
 * verifier, so that the paths through here meet again instead of multiplying.
 *
 * 0: `p` describes an IP packet with this transport protocol, ports included. */
static __always_inline int parse_packet(void *data, void *end, int has_link, __u8 protocol,
					struct packet *p)
{
	__be16 type = 0;
	__be16 *ports;
	__u32 at;

	p->l3 = parse_link(data, end, has_link, &type);
#if L2_LEN
	if (!p->l3)
		return -1;
#endif
	if (type == bpf_htons(ETH_P_IP)) {
		if (parse_ipv4(data, end, p))
			return -1;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		if (parse_ipv6(data, end, p))
			return -1;
	} else {
		return -1;
	}
	if (p->protocol != protocol || p->fragment == LATER_FRAGMENT || p->l4_len < 8)
		return -1;
	at = p->l4;
	if (at > HEADERS_MAX)
		return -1;
	ports = data + at;
	if ((void *)(ports + 4) > end)
		return -1;
	p->source = ports[0];
	p->dest = ports[1];
	p->word[0] = ports[2];
	p->word[1] = ports[3];
	return 0;
}

/* The same connection has the same key in both directions. */
static __always_inline void flow_of_sent(struct flow_key *key, const struct packet *p)
{
	__builtin_memcpy(key->local, p->src, 16);
	__builtin_memcpy(key->remote, p->dst, 16);
	key->local_port = p->source;
	key->remote_port = p->dest;
}

static __always_inline void flow_of_received(struct flow_key *key, const struct packet *p)
{
	__builtin_memcpy(key->local, p->dst, 16);
	__builtin_memcpy(key->remote, p->src, 16);
	key->local_port = p->dest;
	key->remote_port = p->source;
}

#endif
