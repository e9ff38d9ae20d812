/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What both directions of the state machine share: clocks, windows, transitions.
 * All of it runs under the connection's lock, so nothing here calls a helper.
 */
#ifndef MIMICD_STATE_H
#define MIMICD_STATE_H

#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL

/* The receive window that we keep; only its scaled value shows on the wire. */
#define WINDOW_DEFAULT 0x3400000U
#define WSCALE_DEFAULT 12
#define WSCALE_MAX_WINDOW 14
#define WINDOW_MAX (65535U << WSCALE_MAX_WINDOW)
#define WINDOW_OF_SYN 65535U

#define PROBE_INTERVAL_NS (10 * NS_PER_MS)
/* User space sends held datagrams within a few ms; a daemon that is gone never does. */
#define DRAIN_LIMIT_NS NS_PER_S
/* And says so at once; if it died just then, no more than this is held for nobody. */
#define DRAIN_SETTLE_NS (100 * NS_PER_MS)
/* Who sends as fast as user space, and never lets it run empty, is not held for longer than this. */
#define DRAIN_TOTAL_NS (10 * NS_PER_S)
/* A half-open hint counts as long as a peer of default settings would still answer. */
#define HALF_OPEN_NS (8 * NS_PER_S)
/* Longer than a segment takes through the hop, shorter than a pause between bursts. */
#define HOP_ORDER_NS (2 * NS_PER_MS)
#define COOLDOWN_STEPS 4
/* Of an entry that is not established, from one attempt to the next. */
#define FLAGS_KEPT (CROSS_SILENTLY | HINT_FAILED)

/*
 * Times of established connections are those of a tick (clock_tick_ns()), and may lie a tick
 * behind one that another packet has read: that is no time, not 584 years.
 */
static __always_inline __u64 elapsed_ns(__u64 now, __u64 since)
{
	return now > since ? now - since : 0;
}

static __always_inline int seq_before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

static __always_inline __u32 window_full(const struct rule *rule)
{
	return rule->flags & RULE_MAX_WINDOW ? WINDOW_MAX : WINDOW_DEFAULT;
}

static __always_inline __u8 wscale_of(const struct rule *rule)
{
	return rule->flags & RULE_MAX_WINDOW ? WSCALE_MAX_WINDOW : WSCALE_DEFAULT;
}

/* The window field of a segment while `bytes` of our window are left. */
static __always_inline __u16 window_field(const struct rule *rule, __u32 bytes)
{
	/* more than fits is left where a reload has just taken max_window away */
	__u32 scaled = bytes >> WSCALE_DEFAULT;

	return rule->flags & RULE_MAX_WINDOW || scaled > 0xffff ? 0xffff : scaled;
}

static __always_inline __u32 padding_of(const struct rule *rule, __u32 seq, __u32 ack)
{
	return rule->padding == PADDING_RANDOM ? (seq + ack) % 11 : rule->padding;
}

static __always_inline __u32 padding_most(const struct rule *rule)
{
	return rule->padding == PADDING_RANDOM ? 10 : rule->padding;
}

static __always_inline __u64 cooldown_ns(const struct conn *c)
{
	return c->cooldown_step ? 5 * NS_PER_S << (c->cooldown_step - 1) : 0;
}

/* RFC 5961 section 3.2: a reset counts only inside the window; mimic sends seq 0. */
static __always_inline int reset_acceptable(const struct conn *c, const struct segment *s,
					    const struct rule *rule)
{
	if (c->state == SYN_SENT) {
		if (s->flags & TCP_ACK)
			return s->ack == c->seq;
		return s->seq == 0 || (c->flags & CROSSED && s->seq == c->ack);
	}
	return s->seq == 0 || s->seq - c->ack < window_full(rule);
}

static __always_inline void conn_count_drop(struct conn *c, enum conn_drop which)
{
	c->drops[which]++;
}

static __always_inline void conn_reset(struct conn *c, enum reason why, __u64 now)
{
	/* Only who opened waits before it opens again, and not when it merely idled. */
	if (c->role == INITIATOR && why != REASON_STALE && c->cooldown_step < COOLDOWN_STEPS)
		c->cooldown_step++;
	if (why == REASON_STALE)
		c->cooldown_step = 0;
	c->drops[CONN_DROP_LOST] += c->held - c->resent;
	c->flags &= FLAGS_KEPT;
	if (c->state == SYN_RECEIVED && c->role == RESPONDER)
		c->flags |= HINT_FAILED;
	c->state = IDLE;
	c->held = c->resent = 0;
	c->reset_ns = c->state_since_ns = now;
	c->last_reset = why;
	c->generation++;
}

/* A new SYN of ours; on the same ports its ISN lies above the last seq used. */
static __always_inline void conn_open(struct conn *c, __u32 random, __u64 now)
{
	c->isn = c->seq ? c->seq + 0x10000 + (random & 0x0fffffff) : random;
	c->seq = c->isn + 1;
	c->ack = 0;
	c->peer_isn = 0;
	c->peer_wscale = 0;
	c->peer_mss = 0;
	c->state = SYN_SENT;
	c->role = INITIATOR;
	c->state_since_ns = c->last_tx_ns = now;
	c->generation++;
}

static __always_inline void conn_establish(struct conn *c, const struct rule *rule, __u64 now)
{
	/* Until the peer sends data, a RST may still be mimic's answer to our crossing SYN+ACK. */
	c->flags = c->state == SYN_RECEIVED ? c->flags & CROSSED : 0;
	c->state = ESTABLISHED;
	c->state_since_ns = c->last_rx_ns = c->last_active_ns = now;
	c->window = window_full(rule);
	c->cooldown_step = 0;
	c->last_reset = REASON_NONE;
	c->last_probe_ns = 0;
	c->syn_answered_ns = 0;
	c->held -= c->resent;
	c->resent = 0;
	if (c->held) {
		c->flags |= DRAINING;
		c->drain_until_ns = now + DRAIN_LIMIT_NS;
	}
}

#endif
