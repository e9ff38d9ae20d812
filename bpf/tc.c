// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receiving on TC ingress: where XDP would copy each frame (veth), or cannot be had.
 * Here an answer is sent at once, and nothing has to be noted.
 */

static __always_inline int frame_send_back(frame *f, const struct config *cfg, const u8 *options,
					   int missing, u32 size)
{
	return bpf_redirect(cfg->ifindex, 0);
}

/* What was split in the hop goes on as if it had come in at the interface. */
static __always_inline int frame_deliver(frame *f, const struct config *cfg)
{
	if (f->ifindex == cfg->ifindex)
		return TC_ACT_UNSPEC;
	f->mark = cfg->deliver_mark;
	return bpf_redirect(cfg->ifindex, BPF_F_INGRESS);
}

/* The hop cuts what GRO merged into the segments that it was; this program is there too. */
static __always_inline int frame_split(frame *f, const struct config *cfg, const struct packet *p)
{
	if (!cfg->hop_ifindex || f->ifindex != cfg->ifindex)
		return receive_dropped(DROP_SUPERPACKET);
	return into_hop(f, cfg, p);
}

static __always_inline int frame_deliver_and_reply(frame *f, const struct config *cfg,
						   const struct control *c)
{
	return deliver_and_reply(f, cfg, c);
}

/* TCP options stand between the header and the data: they are cut out. */
static __always_inline int frame_skip_options(frame *f, const struct packet *p, u32 options,
					      struct receive_buffer *b)
{
	u64 length = p->l4 - ip_base(p);

	/* the kernel cuts behind the fixed IP header, so what follows that moves up first */
	barrier_var(length);
	if (length && length <= HEADERS_MAX) {
		if (frame_load(f, ip_base(p), b->head, length) ||
		    frame_store(f, ip_base(p) + options, b->head, length))
			return -1;
	}
	return bpf_skb_adjust_room(f, -(s32)options, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

static __always_inline int receive(frame *f);

int mimic_ingress(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (cfg && cfg->deliver_mark && skb->mark == cfg->deliver_mark) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (end - data < 128 && skb->len > end - data)
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	return receive(skb);
}
