"""Which edits each family is run with: (name, edits, options). Options: generate N, noop, full (skipped in the short
table), same (logits as unedited, up to rounding), note."""


# For families whose router maths is another's: one of each kind, and what touches their own parts.
CORE = """ban_one ban_by_layer ban_renormalize ban_preserve_mass ban_hole steermoe_off steermoe_on bias_off bias_on
temperature_low force_one force_two top_k_one top_k_more top_k_more_renormalize next_best swap_last worst shift fixed
next_best_keep_scores next_best_renormalize next_best_preserve_mass next_best_keep_slot next_best_hole replay_self
transplant transplant_recorded scale_expert_zero scale_shared_zero scale_shared_down scale_both ablate_resid_mid_zero
ablate_neurons ablate_expert_out ablate_shared add_shared add_attn_out patch_resid_out ablate_mlp_out when_generated
when_span when_margin ban_and_steermoe ban_and_next_best top_k_and_force bias_then_temperature noop_values""".split()


def table(m):
    """m: facts of the model, see edit_goldens.facts."""
    k, n, a, b = m["k"], m["n_experts"], m["first"], m["last"]
    hot, cold = m["hot"], m["cold"]          # per MoE layer: experts by falling and rising use
    h0, h1 = hot[a][0], hot[b][0]
    trace, vec = "../trace/trace.safetensors", "vectors.safetensors:"
    rows = []

    def add(name, *edits, **options):
        rows.append((name, list(edits), options))

    def ban(*experts, **more):
        return dict(op="deactivate", mode="ban", experts=list(experts), **more)

    def mis(policy, **more):
        return dict(op="misroute", policy=policy, **more)

    both = {str(a): [hot[a][0], hot[a][1]], str(b): [hot[b][0]]}
    policies = ["keep_scores", "renormalize", "preserve_mass", "keep_slot", "hole"]

    # edits of logits
    add("ban_one", ban(h0))
    add("ban_by_layer", dict(op="deactivate", mode="ban", experts=both))
    add("ban_down_to_k", ban(*sorted(hot[a][: n - k]), layers=str(a)))
    for p in policies:
        add("ban_" + p, ban(h0, h1, weights=p) if h0 != h1 else ban(h0, weights=p), full=p not in ("hole",))
    add("ban_from_rd", dict(op="deactivate", mode="ban",
                            experts={"from": "rd.csv", "top": 3, "sign": "both", "per_layer": 2}))
    add("ban_from_rd_negative", dict(op="deactivate", mode="ban",
                                     experts={"from": "rd.csv", "top": 4, "sign": "-"}), full=True)
    add("steermoe_off", dict(op="deactivate", mode="steermoe", experts=both))
    add("steermoe_on", dict(op="activate", mode="steermoe", experts=[cold[a][0]]))
    add("steermoe_on_two", dict(op="activate", mode="steermoe", experts=sorted(cold[b][:2], reverse=True)))
    add("steermoe_off_most", dict(op="deactivate", mode="steermoe", experts=sorted(hot[a][: n - 1]),
                                  layers=str(a)), full=True)
    add("steermoe_on_keep_slot", dict(op="activate", mode="steermoe", experts=[cold[a][0]], weights="keep_slot"))
    add("bias_off", dict(op="deactivate", mode="bias", by=1.5, experts=both))
    add("bias_on", dict(op="activate", mode="bias", by=2.25, experts=[cold[a][0], cold[a][1]]))
    add("temperature_low", dict(op="temperature", t=0.5))
    add("temperature_high", dict(op="temperature", t=3, layers=str(b)))
    add("temperature_preserve_mass", dict(op="temperature", t=2, weights="preserve_mass"), full=True)

    # selection
    add("force_one", dict(op="activate", mode="force", experts=[cold[a][0]]))
    add("force_two", dict(op="activate", mode="force", experts=sorted(cold[a][:2], reverse=True)))
    for p in policies:
        add("force_" + p, dict(op="activate", mode="force", experts=[cold[b][0]], weights=p), full=True)
    add("top_k_one", dict(op="top_k", k=1))
    add("top_k_more", dict(op="top_k", k=k + 1))
    add("top_k_more_one_layer", dict(op="top_k", k=k + 2, layers=str(a), tokens={"positions": "3:9"}))
    add("top_k_all", dict(op="top_k", k=n), full=True)
    for p in ("keep_scores", "renormalize", "preserve_mass", "keep_slot", "hole"):
        add("top_k_one_" + p, dict(op="top_k", k=1, weights=p), full=p != "preserve_mass")
    for p in ("renormalize", "preserve_mass", "hole"):
        add("top_k_more_" + p, dict(op="top_k", k=k + 1, weights=p), full=p != "renormalize",
            same=p == "hole" and not m["renormalizes"])

    # routes
    add("next_best", mis("next_best"))
    add("swap_last", mis("swap_last"))
    add("worst", mis("worst"))
    add("shift", mis("shift", by=3))
    add("shift_back", mis("shift", by=-1, layers=str(a)), full=True)
    add("fixed", mis("fixed", experts=list(reversed(cold[a][:k]))))
    add("fixed_by_layer", mis("fixed", experts={str(a): cold[a][:k], str(b): cold[b][:k]}), full=True)
    for p in policies:
        add("next_best_" + p, mis("next_best", weights=p))
        add("swap_last_" + p, mis("swap_last", weights=p), full=True)
        add("worst_" + p, mis("worst", weights=p), full=True)
        add("shift_" + p, mis("shift", by=1, weights=p), full=True)
        add("fixed_" + p, mis("fixed", experts=cold[a][:k], weights=p), full=True)
    add("replay_self", dict(op="replay", trace=trace), noop=True)
    add("replay_self_recorded", dict(op="replay", trace=trace, weights="recorded"), same=True)
    add("transplant", dict(op="replay", trace=trace, sample="e1", past="leave"))
    add("transplant_inside", dict(op="replay", trace=trace, sample="e1", tokens={"positions": "2:11"}))
    for p in policies + ["recorded"]:
        add("transplant_" + p, dict(op="replay", trace=trace, sample="e1", past="leave", weights=p),
            full=p not in ("keep_slot", "recorded"))

    # scales
    add("scale_expert_zero", dict(op="scale_expert", by=0, experts=both))
    add("scale_expert_up", dict(op="scale_expert", by=2.5, experts=[h0, h1] if h0 != h1 else [h0]))
    if m["shared"]:
        add("scale_shared_zero", dict(op="scale_shared", by=0))
        add("scale_shared_down", dict(op="scale_shared", by=-0.5, layers=str(b)))
        add("scale_both", dict(op="scale_expert", by=0.25, experts=[h0]), dict(op="scale_shared", by=1.5))

    # points: in the first layer with a router, so that later layers carry them to the last tokens
    span = {"span": "doc"}
    add("ablate_resid_mid_zero", dict(op="ablate", point="resid_mid", value="zero", layers=str(a), tokens=span))
    add("ablate_resid_in_vector", dict(op="ablate", point="resid_in", value=vec + "d_model", layers=str(a),
                                       tokens={"positions": "4:6"}))
    add("ablate_attn_mean", dict(op="ablate", point="attn.out", value={"mean_of": trace}, layers=str(a)))
    add("ablate_moe_mean", dict(op="ablate", point="moe.out", value={"mean_of": trace}, layers=str(a), tokens=span))
    add("ablate_moe_zero", dict(op="ablate", point="moe.out", value="zero"), full=True)
    add("ablate_resid_out_vector", dict(op="ablate", point="resid_out", value=vec + "d_model", layers=str(a),
                                        tokens=span), full=True)
    add("ablate_neurons", dict(op="ablate", point="expert.hidden", value="zero", neurons=[0, 3, 7, 11]))
    add("ablate_neurons_of_expert", dict(op="ablate", point="expert.hidden", value=vec + "d_ff", neurons=[1, 2, 5],
                                         experts=[h0], layers=str(a)))
    add("ablate_resid_neurons", dict(op="ablate", point="resid_mid", value=vec + "d_model", neurons=[2, 9, 17],
                                     layers=str(a)), full=True)
    add("ablate_expert_out", dict(op="ablate", point="expert.out", value="zero", experts=both))
    add("ablate_expert_out_mean", dict(op="ablate", point="expert.out", value={"mean_of": trace}, layers=str(a)),
        note="decision 20")
    add("ablate_expert_hidden_mean", dict(op="ablate", point="expert.hidden", value={"mean_of": trace},
                                          layers=str(a), tokens=span), full=True, note="decision 20")
    add("ablate_expert_margin", dict(op="ablate", point="expert.out", value="zero", tokens={"margin_below": 0.4}),
        full=True)
    for point in ("resid_in", "attn.out", "resid_mid", "moe.out", "resid_out"):
        p = point.replace(".", "_")
        add("add_" + p, dict(op="add", point=point, vector=vec + "d_model", scale=1.5, layers=str(a)))
        add("patch_" + p, dict(op="patch", point=point, sample="e1", layers=str(a), tokens={"positions": "3:12"},
                               **{"from": trace}), full=point not in ("resid_mid", "resid_out"))
    add("add_embed", dict(op="add", point="embed", vector=vec + "d_model", scale=0.5, tokens={"positions": "1:2"}),
        full=True)
    add("add_final", dict(op="add", point="final.normed", vector=vec + "d_model", scale=0.5), full=True)
    add("add_expert_out", dict(op="add", point="expert.out", vector=vec + "d_model", scale=-1, experts=[h0],
                               layers=str(a)))
    add("add_expert_hidden", dict(op="add", point="expert.hidden", vector=vec + "d_ff", scale=2, layers=str(a)),
        full=True)
    add("patch_expert_out", dict(op="patch", point="expert.out", sample="e1", layers=str(a),
                                 tokens={"positions": "0:8"}, **{"from": trace}))
    add("patch_expert_hidden", dict(op="patch", point="expert.hidden", sample="e1", layers=str(a),
                                    tokens={"positions": "0:8"}, **{"from": trace}), full=True)
    add("patch_own", dict(op="patch", point="resid_out", layers=str(a), **{"from": trace}), full=True, same=True)
    if m["shared"]:
        add("ablate_shared", dict(op="ablate", point="shared.out", value="zero", layers=str(a), tokens=span))
        add("add_shared", dict(op="add", point="shared.out", vector=vec + "d_model", scale=1))
        add("patch_shared", dict(op="patch", point="shared.out", sample="e1", layers=str(a),
                                 tokens={"positions": "5:7"}, **{"from": trace}), full=True)
    if m["dense"] is not None:
        add("add_dense_resid_mid", dict(op="add", point="resid_mid", vector=vec + "d_model", scale=1,
                                        layers=str(m["dense"])), note="decision 18")
        add("ablate_mlp_out", dict(op="ablate", point="mlp.out", value="zero", layers=str(m["dense"]), tokens=span),
            note="decision 18")
        add("add_resid_mid_all", dict(op="add", point="resid_mid", vector=vec + "d_model", scale=0.5),
            note="decision 18")
    add("ablate_then_add", dict(op="ablate", point="resid_mid", value="zero", layers=str(a), tokens=span),
        dict(op="add", point="resid_mid", vector=vec + "d_model", scale=1, layers=str(a)))
    add("add_then_ablate", dict(op="add", point="resid_mid", vector=vec + "d_model", scale=1, layers=str(a)),
        dict(op="ablate", point="resid_mid", value="zero", layers=str(a), tokens=span), full=True)

    # when
    add("when_given", ban(h0, tokens={"phase": "given"}), generate=8)
    add("when_generated", mis("next_best", tokens={"phase": "generated"}), generate=8)
    add("when_generated_ban", ban(h0, tokens={"phase": "generated"}), generate=8, full=True)
    add("when_all", mis("swap_last"), generate=8)
    add("when_span", mis("worst", tokens={"span": "doc"}))
    add("when_positions", mis("next_best", tokens={"positions": "5:9"}))
    add("when_span_and_positions", mis("worst", tokens={"span": "question", "positions": "0:11", "phase": "given"}))
    add("when_margin", mis("swap_last", tokens={"margin_below": 0.4}))
    add("when_margin_and_span", ban(h0, tokens={"margin_below": 0.8, "span": "doc"}), full=True)
    add("when_steer_generated", dict(op="add", point="resid_out", vector=vec + "d_model", scale=2, layers=str(b),
                                     tokens={"phase": "generated"}), generate=8, full=True)

    # together
    st_on = dict(op="activate", mode="steermoe", experts=[cold[a][0]])
    st_off = dict(op="deactivate", mode="steermoe", experts=[hot[a][1]])
    add("ban_and_steermoe", ban(h0), st_on, st_off)
    add("steermoe_and_ban", st_off, ban(h0), st_on)
    add("two_steermoe", st_on, st_off)
    add("two_steermoe_same", dict(st_off, experts=[cold[a][0]]), st_on, full=True)
    add("bias_then_steermoe", dict(op="activate", mode="bias", by=1.25, experts=[cold[b][0]]), st_off)
    add("steermoe_then_bias", st_off, dict(op="activate", mode="bias", by=1.25, experts=[cold[b][0]]), st_on)
    add("bias_then_temperature", dict(op="activate", mode="bias", by=2, experts=[cold[a][0]]),
        dict(op="temperature", t=0.5))
    add("temperature_then_bias", dict(op="temperature", t=0.5),
        dict(op="activate", mode="bias", by=2, experts=[cold[a][0]]))
    add("temperature_then_steermoe", dict(op="temperature", t=2), st_on, full=True)
    add("ban_and_next_best", ban(h0), mis("next_best"))
    add("ban_and_worst", ban(cold[a][0], cold[b][0]) if cold[a][0] != cold[b][0] else ban(cold[a][0]), mis("worst"))
    add("ban_and_swap_last_hole", ban(h0), mis("swap_last", weights="hole"))
    add("ban_and_force", ban(h0), dict(op="activate", mode="force", experts=[cold[a][0]] if cold[a][0] != h0
                                       else [cold[a][1]]))
    add("steermoe_and_next_best", st_on, mis("next_best"), full=True)
    add("bias_and_worst_keep_scores", dict(op="activate", mode="bias", by=3, experts=[cold[a][0]]),
        mis("worst", weights="keep_scores"), full=True)
    add("top_k_and_force", dict(op="top_k", k=k + 1), dict(op="activate", mode="force", experts=cold[a][:2]))
    add("force_and_top_k_one", dict(op="activate", mode="force", experts=[cold[a][1]]), dict(op="top_k", k=1))
    add("two_forces", dict(op="activate", mode="force", experts=[max(cold[a][:2])]),
        dict(op="activate", mode="force", experts=[min(cold[a][:2])]))
    add("top_k_and_next_best", dict(op="top_k", k=1), mis("next_best"))
    add("top_k_and_shift_preserve", mis("shift", by=2, weights="preserve_mass"), dict(op="top_k", k=k + 1),
        note="the policy is the misroute's: route edits come after selection")
    add("next_best_then_shift", mis("next_best"), mis("shift", by=1))
    add("shift_then_next_best", mis("shift", by=1), mis("next_best", weights="keep_slot"), full=True)
    add("transplant_then_shift", dict(op="replay", trace=trace, sample="e1", past="leave"), mis("shift", by=4))
    add("policy_of_last", ban(h0, weights="hole"), mis("swap_last", weights="keep_slot", tokens={"positions": "0:9"}),
        note="keep_slot inside 0:9, hole elsewhere")
    add("policy_of_stage", mis("next_best", weights="renormalize"), ban(h0, weights="hole"),
        note="the misroute acts after the ban, though listed first")
    add("policy_of_logit_list", ban(h0, weights="hole"),
        dict(op="activate", mode="bias", by=1, experts=[cold[a][0]], weights="preserve_mass"), full=True)
    add("misroute_and_scale", mis("next_best", weights="keep_slot"), dict(op="scale_expert", by=3, experts=[h0, h1]
                                                                          if h0 != h1 else [h0]))
    add("layers_apart", ban(h0, layers=str(a)), mis("worst", layers=str(b)),
        dict(op="add", point="resid_in", vector=vec + "d_model", scale=1, layers=str(b), tokens={"positions": "2:17"}))
    add("layers_range", ban(h0, layers=f"0-{m['n_layers'] - 1}"))

    # nothing at all
    add("noop_empty", noop=True)
    add("noop_values", dict(op="temperature", t=1), dict(op="top_k", k=k, weights="renormalize"),
        dict(op="activate", mode="bias", by=0, experts=[0], weights="hole"), mis("shift", by=0, weights="keep_slot"),
        dict(op="scale_expert", by=1, experts=[1]), noop=True)
    add("noop_never", mis("worst", tokens={"positions": "900:999"}), noop=True)
    add("noop_phase", mis("worst", tokens={"phase": "generated"}), noop=True)
    return rows


def errors(m):
    """Specs that must be refused before the first token."""
    k, n, a, b = m["k"], m["n_experts"], m["first"], m["last"]
    trace = "../trace/trace.safetensors"
    rows = [
        ("ban_too_many", [dict(op="deactivate", mode="ban", experts=list(range(n - k + 1)))]),
        ("ban_too_many_in_two", [dict(op="deactivate", mode="ban", experts=list(range(n - k))),
                                 dict(op="deactivate", mode="ban", experts=[n - 1])]),
        ("ban_below_top_k", [dict(op="deactivate", mode="ban", experts=list(range(n - k))),
                             dict(op="top_k", k=k + 1)]),
        ("force_too_many", [dict(op="activate", mode="force", experts=list(range(k + 1)))]),
        ("force_banned", [dict(op="deactivate", mode="ban", experts=[2]),
                          dict(op="activate", mode="force", experts=[2])]),
        ("fixed_banned", [dict(op="deactivate", mode="ban", experts=[0]),
                          dict(op="misroute", policy="fixed", experts=list(range(k)))]),
        ("fixed_wrong_count", [dict(op="misroute", policy="fixed", experts=list(range(k + 1)))]),
        ("fixed_without_experts", [dict(op="misroute", policy="fixed")]),
        ("next_best_too_few", [dict(op="misroute", policy="next_best"),
                               dict(op="deactivate", mode="ban", experts=list(range(n - 2 * k + 1)))]),
        ("next_best_top_k", [dict(op="misroute", policy="next_best"), dict(op="top_k", k=n // 2 + 1)]),
        ("keep_slot_top_k", [dict(op="top_k", k=k + 1, weights="keep_slot")]),
        ("recorded_without_replay", [dict(op="misroute", policy="worst", weights="recorded")]),
        ("layer_too_high", [dict(op="misroute", policy="worst", layers=str(m["n_layers"]))]),
        ("layer_range_too_high", [dict(op="misroute", policy="worst", layers=f"0-{m['n_layers']}")]),
        ("layers_empty", [dict(op="misroute", policy="worst", layers="")]),
        ("expert_too_high", [dict(op="deactivate", mode="ban", experts=[n])]),
        ("expert_negative", [dict(op="deactivate", mode="ban", experts=[-1])]),
        ("experts_missing", [dict(op="deactivate", mode="ban")]),
        ("experts_empty", [dict(op="deactivate", mode="ban", experts=[])]),
        ("layers_and_experts_by_layer", [dict(op="deactivate", mode="ban", layers="all",
                                              experts={str(b): [0]})]),
        ("bias_without_by", [dict(op="deactivate", mode="bias", experts=[0])]),
        ("unknown_op", [dict(op="mute", experts=[0])]),
        ("unknown_mode", [dict(op="activate", mode="ban", experts=[0])]),
        ("unknown_policy", [dict(op="misroute", policy="best")]),
        ("unknown_key", [dict(op="top_k", k=1, n=2)]),
        ("unknown_token_key", [dict(op="top_k", k=1, tokens={"span_name": "doc"})]),
        ("unknown_weights", [dict(op="top_k", k=1, weights="softmax")]),
        ("unknown_span", [dict(op="top_k", k=1, tokens={"span": "nowhere"})]),
        ("top_k_zero", [dict(op="top_k", k=0)]),
        ("top_k_too_many", [dict(op="top_k", k=n + 1)]),
        ("temperature_zero", [dict(op="temperature", t=0)]),
        ("replay_past", [dict(op="replay", trace=trace, sample="e1")]),
        ("replay_unknown_sample", [dict(op="replay", trace=trace, sample="nobody")]),
        ("point_read_only", [dict(op="ablate", point="router.logits", value="zero")]),
        ("point_unknown", [dict(op="ablate", point="attn.in", value="zero")]),
    ]
    if m["dense"] is not None:
        rows.append(("layer_without_router", [dict(op="top_k", k=1, layers=str(m["dense"]))]))
        rows.append(("layer_without_router_by_layer", [dict(op="deactivate", mode="ban",
                                                            experts={str(m["dense"]): [0]})]))
        rows.append(("moe_point_in_dense_layer", [dict(op="ablate", point="moe.out", value="zero",
                                                       layers=str(m["dense"]))]))
    if not m["shared"]:
        rows.append(("scale_shared_without", [dict(op="scale_shared", by=2)]))
    return rows
