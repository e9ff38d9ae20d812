// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datagram turns round as an ICMP error from its destination, so that the sender's
 * socket, or the host that we forward for, learns what fits.
 */
static __always_inline int too_big(struct __sk_buff *skb, const struct packet *p, struct offload *o,
				   const struct config *cfg, u32 padding, struct send_buffer *b)
{
	u32 quote = p->l4 - p->l3 + UDP_HEADER, base = ip_base(p), span = p->l4 + 2;
	u32 total = ICMP_HEADER + quote;
	u8 l2[12], mac[6];
	u64 length = quote, end = total;
	s64 part;
	u64 sum;

	count(DROP_TOO_BIG);
	barrier_var(length);
	if (length < 8 || length > HEADERS_MAX)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, p->l3, b->segment + ICMP_HEADER, length) ||
	    bpf_skb_load_bytes(skb, 0, l2, sizeof(l2)))
		return TC_ACT_SHOT;
	/* without "don't fragment" there is nobody who could use the answer */
	if (!p->v6 && !(b->segment[ICMP_HEADER + 6] & 0x40))
		return TC_ACT_SHOT;
	icmp_header(b->segment, p, icmp_mtu(p, cfg->mtu, padding));
	barrier_var(end);
	end &= 0x1ff;
	*(b->segment + end) = 0;
	*(b->segment + end + 1) = 0;
	*(b->segment + end + 2) = 0;
	part = csum_buffer(b->segment, total);
	if (part < 0)
		return TC_ACT_SHOT;
	sum = part;
	if (p->v6)
		sum += csum_pseudo(p->addresses, IPPROTO_ICMPV6_, total);
	*(u16 *)(b->segment + 2) = ~csum_fold64(sum);

	if (o->partial &&
	    (bpf_skb_change_tail(skb, base + span + 32, 0) || finish_offload(skb, span)))
		return TC_ACT_SHOT;
	if (skb_resize(skb, base + total))
		return TC_ACT_SHOT;
	length = total;
	barrier_var(length);
	if (length < 8 || length > HEADERS_MAX + ICMP_HEADER)
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, base, b->segment, length, 0))
		return TC_ACT_SHOT;
	if (p->v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_ICMPV6_, .hop_limit = 64};

		ip.payload_len = bpf_htons(total);
		__builtin_memcpy(&ip.saddr, p->dst, 16);
		__builtin_memcpy(&ip.daddr, p->src, 16);
		if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0))
			return TC_ACT_SHOT;
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_ICMP};

		ip.tot_len = bpf_htons(sizeof(ip) + total);
		ip.saddr = p->dst[3];
		ip.daddr = p->src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0))
			return TC_ACT_SHOT;
	}
#if L2_LEN
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
	if (bpf_skb_store_bytes(skb, 0, l2, sizeof(l2), 0))
		return TC_ACT_SHOT;
#endif
	return bpf_redirect(cfg->ifindex, BPF_F_INGRESS);
}
