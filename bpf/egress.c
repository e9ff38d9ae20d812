// SPDX-License-Identifier: GPL-2.0-only
/*
 * TC egress of the interface, and TC ingress of the far end of its hop: UDP of a
 * filtered flow leaves as TCP.
 *
 *   [IP][UDP 8][datagram]  ->  [IP][TCP 20][padding p][datagram from byte 12 + p][its first 12 + p]
 *
 * Only the tail grows, so that a long datagram stays where it is.
 */

/* A copy of the whole frame goes to user space, which sends it again later. */
static __always_inline int hold_frame(struct __sk_buff *skb, const struct flow_key *flow,
				      const struct packet *p, const struct offload *o,
				      const struct send_verdict *v, u64 now)
{
	int zero = 0;
	struct hold_buffer *b = hold_buffers.lookup(&zero);
	u64 length = skb->len, from = 0, to = 0;

	if (!b)
		return -1;
#if L2_LEN
	/* a tag that stands beside the frame goes back to its place in it */
	if (skb->vlan_present) {
		if (bpf_skb_load_bytes(skb, 0, b->frame, TAG_AT))
			return -1;
		tag_store(b->frame + TAG_AT, skb_tag(skb));
		from = TAG_AT;
		to = TAG_AT + TAG_BYTES;
	}
#else
	from = p->l3; /* the hop's */
	barrier_var(from);
	from &= 0x1f;
#endif
	length = length - from + to;
	__builtin_memset(&b->event, 0, sizeof(b->event));
	b->event.type = EVENT_HELD;
	b->event.frame_len = length;
	b->event.at_ns = now;
	b->event.key = *flow;
	b->event.generation = v->generation;
	b->event.state = v->state;
	b->event.role = v->role;
	b->event.reason = v->reason;
	b->event.flags = o->partial ? EVENT_PARTIAL : 0;
	b->event.transport_at = p->l4 - from + to;
	barrier_var(length);
	length = helper_length(length);
	if (to) {
		u64 rest = length - to;

		barrier_var(rest);
		if (bpf_skb_load_bytes(skb, TAG_AT, b->frame + TAG_AT + TAG_BYTES, helper_length(rest)))
			return -1;
	} else if (bpf_skb_load_bytes(skb, from, b->frame, length)) {
		return -1;
	}
	return ring.ringbuf_output(b, sizeof(b->event) + length, 0);
}

static __always_inline void link_header_save(struct __sk_buff *skb, const struct packet *p, u8 *to)
{
#if L2_LEN
	u64 length = p->l3;

	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (length <= L2_MAX)
		bpf_skb_load_bytes(skb, 0, to, length);
#endif
}

/*
 * The far end of a veth pair without offloads gets a superpacket as segments, and the
 * checksum of an inner packet finished; this program runs there too.
 */
static __always_inline int hop(struct __sk_buff *skb, const struct config *cfg,
			       const struct packet *p, struct conn *c)
{
	if (!cfg->hop_ifindex || skb->ifindex != cfg->ifindex)
		return drop(DROP_SUPERPACKET);
	if (c)
		c->hop_at_ns = bpf_ktime_get_boot_ns();
	return into_hop(skb, cfg, p);
}

/* Asked last of all: from here to the wire is the least that another CPU can overtake. */
static __always_inline int may_still_open(const struct flow_key *flow, const struct send_verdict *v,
					  struct conn *c, u64 now)
{
	struct half_open *hint = half_opens.lookup((struct flow_key *)flow);
	int opens;

	bpf_spin_lock(&c->lock);
	opens = conn_still_opens(c, v->generation, hint, now);
	bpf_spin_unlock(&c->lock);
	return opens;
}

/* What the state machine decided becomes a packet. */
static __always_inline int apply_send(struct __sk_buff *skb, const struct config *cfg,
				      const struct flow_key *flow, const struct packet *p,
				      struct offload *o, const struct send_verdict *v,
				      const struct rule *rule, struct conn *c,
				      u32 n, int resent,
				      struct send_buffer *b, u64 now)
{
	u32 kind = v->counter;

	/* Counted with its connection. To user space an error means that the program did not see it. */
	if (unlikely(v->action == SEND_NOTHING || (v->action == SEND_DROP && resent)))
		return give_up(v->counter);
	if (unlikely(v->action == SEND_DROP))
		return drop(v->counter);
	if (unlikely(v->action == SEND_HOLD || v->action == SEND_HOLD_AND_OPEN)) {
		if (hold_frame(skb, flow, p, o, v, now)) {
			bpf_spin_lock(&c->lock);
			conn_lost(c, v->generation);
			bpf_spin_unlock(&c->lock);
			count(DROP_RING_FULL);
		} else {
			count(COUNT_HELD);
		}
		if (v->action == SEND_HOLD)
			return take_away();
		kind = COUNT_TX_SYN;
	} else if (likely(v->action != SEND_CONTROL)) {
		if (unlikely(become_data(skb, p, o, v, n, b)))
			return drop(DROP_REWRITE);
		count(COUNT_TX_DATA);
		trace(cfg, flow, EVENT_SENT, TCP_ACK | TCP_PSH, v->seq, v->ack, n + v->padding);
		if (unlikely(resent))
			count(COUNT_RESENT);
		if (likely(v->action == SEND_DATA))
			return transmit(skb, cfg);
		/* The finished segment leaves as a clone; this skb becomes the probe behind it. */
		b->cloning = 1;
		bpf_clone_redirect(skb, cfg->ifindex, 0);
		b->cloning = 0;
		o->partial = 0;
		kind = COUNT_TX_PROBE;
	}
	if (v->given_up)
		count(v->given_up);
	if (become_control(skb, p, o, &v->control, cfg, wscale_of(rule), b->options))
		return drop(DROP_REWRITE);
	if (v->action == SEND_HOLD_AND_OPEN && !may_still_open(flow, v, c, now))
		return take_away();
	count(kind);
	trace(cfg, flow, EVENT_SENT, v->control.flags, v->control.seq, v->control.ack,
	      v->control.payload);
	return transmit(skb, cfg);
}

int mimic_egress(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct packet *p;
	struct flow_key flow = {};
	struct offload o = {};
	struct send_verdict *v;
	struct half_open *hint = 0;
	struct send_buffer *b;
	struct rule *rule;
	struct conn *c;
	void *data, *end;
	u32 number, random, length, n;
	int zero = 0, resent = 0, fresh = 0;
	u64 now;

	b = send_buffers.lookup(&zero);
	if (unlikely(!cfg || !b))
		return TC_ACT_UNSPEC;
	/* a finished segment of ours, on its way within our own run: the buffer is in use */
	if (unlikely(b->cloning))
		return TC_ACT_UNSPEC;
	p = &b->packet;
	v = &b->verdict;
	__builtin_memset(p, 0, sizeof(*p));
	__builtin_memset(v, 0, sizeof(*v));
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (unlikely(end - data < 128 && skb->len > end - data))
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (parse_packet(data, end, skb->ifindex != cfg->ifindex, IPPROTO_UDP, p))
		return TC_ACT_UNSPEC;
	flow_of_sent(&flow, p);
	c = conns.lookup(&flow);
	number = c ? c->rule : find_rule(&flow, p->v6);
	rule = rule_get(number);
	if (!rule)
		return TC_ACT_UNSPEC;

	/* From here on the packet is ours: what cannot be sent right is not sent at all. */
	if (unlikely(p->fragment))
		return drop(DROP_FRAGMENT);
	now = c && c->state == ESTABLISHED ? clock_tick_ns(cfg) : bpf_ktime_get_boot_ns();
	if (unlikely(skb->gso_size))
		return hop(skb, cfg, p, c);
	length = bpf_ntohs(p->word[0]);
	if (unlikely(length < UDP_HEADER || length != p->l4_len || skb->len < p->l4 + length))
		return drop(DROP_MALFORMED);
	offload_read(skb, cfg, p, &o, b->options);
	if (unlikely(o.foreign))
		return hop(skb, cfg, p, c);
	/* What comes right behind a superpacket must not overtake it. */
	if (unlikely(c && skb->ifindex == cfg->ifindex &&
		     elapsed_ns(now, c->hop_at_ns) < HOP_ORDER_NS))
		return hop(skb, cfg, p, 0);
	n = length - UDP_HEADER;
	if (unlikely(p->l4 - p->l3 + TCP_HEADER + padding_most(rule) + n > cfg->mtu))
		return too_big(skb, p, &o, cfg, padding_most(rule), b);
	if (unlikely(n > DATAGRAM_MAX))
		return drop(DROP_TOO_BIG);
	/* bridges and packet sockets may leave link padding behind the datagram */
	if (unlikely(skb->len > p->l4 + length && bpf_skb_change_tail(skb, p->l4 + length, 0)))
		return drop(DROP_REWRITE);

	if (unlikely(skb->mark == cfg->command_mark)) {
		struct command cmd = {};

		if (!c || n < sizeof(cmd) || bpf_skb_load_bytes(skb, p->l4 + UDP_HEADER, &cmd, sizeof(cmd)))
			return give_up(DROP_STALE_COMMAND);
		now = bpf_ktime_get_boot_ns(); /* what ends is told apart from what came just before */
		bpf_spin_lock(&c->lock);
		conn_command(c, v, rule, &cmd, now);
		bpf_spin_unlock(&c->lock);
		if (v->reason)
			event_state((struct event *)b->segment, &flow, now, v->generation, v->state,
				    v->role, v->reason);
	} else {
		resent = skb->mark == cfg->resend_mark;
		if (unlikely(!c)) {
			/* user space looks only at entries that it was told of: none is made without that */
			if (resent)
				return give_up(DROP_RESEND_LATE);
			/* nothing is kept for a peer that a passive filter has not heard of */
			if (!rule->handshake_interval_s && !hint_is_fresh(half_opens.lookup(&flow), now))
				return drop(DROP_PASSIVE);
			c = conn_make(&flow, number, b->conn_template);
		}
		if (!c)
			return drop(DROP_MAP_FULL);
		/* only what opens needs a number that nobody can guess */
		random = c->state == IDLE ? bpf_get_prandom_u32() : (u32)now;
		if (unlikely(c->state == IDLE))
			hint = half_opens.lookup(&flow);
		/* XDP that received the handshake did not see a tag that stands beside the frame */
		if (unlikely(c->state == IDLE || (skb->vlan_present && c->l2_len == p->l3))) {
			link_header_save(skb, p, b->head);
			fresh = 1;
		}
		bpf_spin_lock(&c->lock);
		conn_send(c, v, rule, hint, n, resent, random, now);
		if (fresh)
			link_header_keep(c, p, b->head, skb_tag(skb));
		bpf_spin_unlock(&c->lock);
	}
	return apply_send(skb, cfg, &flow, p, &o, v, rule, c, n, resent, b, now);
}
