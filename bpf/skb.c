// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where an skb goes: onto the wire, into the hop, or nowhere.
 */

static __always_inline u32 ip_base(const struct packet *p)
{
	return p->l3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* Onto the wire, also from the far end of the hop. Other people's filters behind ours see it. */
static __always_inline int transmit(struct __sk_buff *skb, const struct config *cfg)
{
	if (skb->ifindex == cfg->ifindex)
		return TC_ACT_UNSPEC;
	return bpf_redirect(cfg->ifindex, 0);
}

static __always_inline int drop(u32 why)
{
	count(why);
	return TC_ACT_SHOT;
}

/*
 * Gone, and its sender is told that all went well. By a redirection to an interface that nobody
 * has: a tcx link takes TC_ACT_STOLEN for "go on", and TC_ACT_SHOT may reach the sender as ENOBUFS.
 */
#define NOWHERE 0x7fffffff

static __always_inline int take_away(void)
{
	return bpf_redirect(NOWHERE, 0);
}

static __always_inline int give_up(u32 why)
{
	count(why);
	return take_away();
}

/* Into the near end of the hop, where a packet without a link header needs one. */
static __always_inline int into_hop(struct __sk_buff *skb, const struct config *cfg,
				    const struct packet *p)
{
#if !L2_LEN
	struct ethhdr eth = {.h_proto = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)};

	if (bpf_skb_change_head(skb, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return drop(DROP_SUPERPACKET);
#endif
	count(COUNT_HOP);
	return bpf_redirect(cfg->hop_ifindex, 0);
}
