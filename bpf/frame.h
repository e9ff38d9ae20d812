/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A received frame, seen by XDP or (RECEIVE_ON_TC) by TC ingress. The code that
 * receives is the same for both; here stands what differs.
 */
#ifndef MIMICD_FRAME_H
#define MIMICD_FRAME_H

#ifdef RECEIVE_ON_TC

typedef struct __sk_buff frame;

#define FRAME_PASS TC_ACT_UNSPEC
#define FRAME_DROP TC_ACT_SHOT

/* GRO has merged segments of a peer that does not set PSH. */
static __always_inline int frame_is_merged(frame *f)
{
	return f->gso_size != 0;
}

static __always_inline int frame_load(frame *f, __u32 at, void *to, __u32 length)
{
	return bpf_skb_load_bytes(f, at, to, length);
}

/* A checksum that the NIC computed over the whole frame has to stay true. */
static __always_inline int frame_store(frame *f, __u32 at, void *from, __u32 length)
{
	return bpf_skb_store_bytes(f, at, from, length, BPF_F_RECOMPUTE_CSUM);
}

static __always_inline __u32 frame_size(frame *f)
{
	return f->len;
}

static __always_inline __u32 frame_total(frame *f)
{
	return f->len;
}

static __always_inline int frame_resize(frame *f, __u32 size)
{
	return f->len == size ? 0 : bpf_skb_change_tail(f, size, 0);
}

#else

typedef struct xdp_md frame;

#define FRAME_PASS XDP_PASS
#define FRAME_DROP XDP_DROP

/* XDP comes before GRO. */
static __always_inline int frame_is_merged(frame *f)
{
	return 0;
}

static __always_inline int frame_load(frame *f, __u32 at, void *to, __u32 length)
{
	return bpf_xdp_load_bytes(f, at, to, length);
}

static __always_inline int frame_store(frame *f, __u32 at, void *from, __u32 length)
{
	return bpf_xdp_store_bytes(f, at, from, length);
}

/* Of a frame in several buffers: the first one's. */
static __always_inline __u32 frame_size(frame *f)
{
	return f->data_end - f->data;
}

static __always_inline __u32 frame_total(frame *f)
{
	return bpf_xdp_get_buff_len(f);
}

static __always_inline int frame_resize(frame *f, __u32 size)
{
	int change = (int)size - (int)frame_size(f);

	return change ? bpf_xdp_adjust_tail(f, change) : 0;
}

#endif

#endif
