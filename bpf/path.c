// SPDX-License-Identifier: GPL-2.0-only
/*
 * A router on the way has no room for a segment, and says so to TCP, which knows nothing of it.
 * The error becomes one of the datagram, so that path MTU discovery works for its sender.
 */

/*
 * The growth of the datagrams of the flow that is quoted; 0 where it is none of ours. Only what was
 * sent a moment ago can be quoted: RFC 5927 section 4 keeps out whoever guesses.
 */
static __always_inline u32 quoted_growth(struct flow_key *flow, u32 seq)
{
	struct conn *c = conns.lookup(flow);
	struct rule *rule = c ? rule_get(c->rule) : 0;

	if (!c || !rule || c->state != ESTABLISHED || c->seq - seq - 1 >= window_full(rule))
		return 0;
	return TCP_HEADER - UDP_HEADER + padding_most(rule);
}

static __always_inline int path_error4(frame *f, const struct packet *p, struct flow_key *flow,
				       struct icmp_quote4 *q)
{
	u32 grown;

	if (frame_load(f, p->l4, q, sizeof(*q)))
		return -1;
	if (q->type != 3 || q->code != 4 || q->ip.version != 4 || q->ip.ihl != 5 ||
	    q->ip.protocol != IPPROTO_TCP || q->ip.frag_off & bpf_htons(IP_OFFSET_MASK))
		return -1;
	flow->local[2] = flow->remote[2] = bpf_htonl(0xffff);
	flow->local[3] = q->ip.saddr;
	flow->remote[3] = q->ip.daddr;
	flow->local_port = q->source;
	flow->remote_port = q->dest;
	grown = quoted_growth(flow, bpf_ntohl(q->seq));
	if (!grown || icmp_retell4(q, grown))
		return -1;
	return frame_store(f, p->l4, q, sizeof(*q));
}

static __always_inline int path_error6(frame *f, const struct packet *p, struct flow_key *flow,
				       struct icmp_quote6 *q)
{
	u32 grown;

	if (frame_load(f, p->l4, q, sizeof(*q)))
		return -1;
	if (q->type != 2 || q->ip.version != 6 || q->ip.nexthdr != IPPROTO_TCP)
		return -1;
	__builtin_memcpy(flow->local, &q->ip.saddr, 16);
	__builtin_memcpy(flow->remote, &q->ip.daddr, 16);
	flow->local_port = q->source;
	flow->remote_port = q->dest;
	grown = quoted_growth(flow, bpf_ntohl(q->seq));
	if (!grown || icmp_retell6(q, grown))
		return -1;
	return frame_store(f, p->l4, q, sizeof(*q));
}

/* Whatever it is, it goes on: an error that quotes nothing of ours as it came. */
static __always_inline void receive_path_error(frame *f, const struct packet *p,
					       struct flow_key *flow, u8 *buffer)
{
	int failed = p->v6 ? path_error6(f, p, flow, (void *)buffer) :
			     path_error4(f, p, flow, (void *)buffer);

	if (!failed)
		count(COUNT_RX_PATH_MTU);
}
