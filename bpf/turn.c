// SPDX-License-Identifier: GPL-2.0-only
/* TC ingress: a datagram that was restored and a segment that answers it, from one skb. */

/* The datagram goes on as a clone, and the original turns back as this segment. */
static __always_inline int deliver_and_reply(struct __sk_buff *skb, const struct config *cfg,
					     const struct control *c)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct control_bytes bytes;
	struct packet p = {};
	u8 l2[12], mac[6];
	u32 base;

	if (parse_packet(data, end, skb->ifindex != cfg->ifindex, IPPROTO_UDP, &p))
		return TC_ACT_UNSPEC;
	skb->mark = cfg->deliver_mark;
	if (bpf_clone_redirect(skb, cfg->ifindex, BPF_F_INGRESS)) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	skb->mark = 0;
	base = p.l3 + (p.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	control_encode(&bytes, c, p.dest, p.source, p.addresses, 0, 0);
	if (skb_resize(skb, base + TCP_HEADER))
		return drop(DROP_REWRITE);
#if L2_LEN
	if (bpf_skb_load_bytes(skb, 0, l2, sizeof(l2)))
		return drop(DROP_REWRITE);
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
	if (bpf_skb_store_bytes(skb, 0, l2, sizeof(l2), 0))
		return drop(DROP_REWRITE);
#endif
	if (p.v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_TCP, .hop_limit = 64};

		ip.payload_len = bpf_htons(TCP_HEADER);
		__builtin_memcpy(&ip.saddr, p.dst, 16);
		__builtin_memcpy(&ip.daddr, p.src, 16);
		if (bpf_skb_store_bytes(skb, p.l3, &ip, sizeof(ip), 0))
			return drop(DROP_REWRITE);
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};

		ip.tot_len = bpf_htons(sizeof(ip) + TCP_HEADER);
		ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
		ip.saddr = p.dst[3];
		ip.daddr = p.src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (bpf_skb_store_bytes(skb, p.l3, &ip, sizeof(ip), 0))
			return drop(DROP_REWRITE);
	}
	if (bpf_skb_store_bytes(skb, base, &bytes, TCP_HEADER, 0))
		return drop(DROP_REWRITE);
	return bpf_redirect(cfg->ifindex, 0);
}

static __always_inline int receive_dropped(u32 why)
{
	count(why);
	return FRAME_DROP;
}
