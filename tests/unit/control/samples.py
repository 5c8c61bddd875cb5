"""Configuration documents that several tests use."""

from __future__ import annotations

FULL = """
tenants:
- name: acme
  time_zone: Europe/Berlin
  teams:
  - {name: research, cost_center: CC-1, limits: {requests_per_minute: 600, tokens_per_minute: 100000}}
  - {name: legal}
  principals:
  - {name: alice, teams: [research, legal], limits: {concurrency: 4}}
  - {name: batch, kind: service, teams: [research]}
  - {name: helper, kind: agent, teams: [research], may_act_for: [alice]}
  keys:
  - {name: alice-laptop, principal: alice, data_class: confidential, expires_in_days: 90}
  - {name: batch, principal: batch, scopes: [infer, assert-user], limits: {requests_per_minute: 60}}
  - {name: alice-admin, principal: alice, scopes: [admin]}
  policies:
  - id: research-models
    template: team-may-use-models
    parameters: {team: research, models: [smollm2, "meta/llama:8b"]}
  - id: legal
    words: Legal may use everything.
    cedar: permit(principal in Team::"legal", action, resource);
  aliases:
  - name: fast
    targets: [{model: smollm2, source: local, weight: 9}, {model: smollm2}]
    max_tokens: 500
    sunset: 2027-01-31
    class: drafting
  issuers:
  - issuer: https://id.acme.example
    audience: interlock
    jwks_url: https://id.acme.example/jwks
    group_teams: {researchers: research}
  roles:
  - {principal: alice, role: admin}
- name: globex
sources:
- name: local
  kind: llamacpp
  url: http://127.0.0.1:9000
  granted_to: ["*"]
  labels: {region: eu, extra: {rack: "4"}}
  limits: {concurrency: 8, waiting_max: 4, waiting_resume: 1}
- name: cloud
  kind: openai
  url: https://api.example.com
  granted_to: [acme]
  labels: {region: us, on_prem: false, data_class_max: public}
  credential: {env: CLOUD_KEY}
  tls: {ca_file: /etc/ca.pem}
  egress_proxy: http://proxy:3128
  price: {input_usd_per_mtok: 0.15, output_usd_per_mtok: "0.6"}
  models:
  - {name: big, context_length: 128000, abilities: [chat, tools], quality_milli: 900}
  declared_only: true
- name: own
  kind: vllm
  url: http://10.0.0.5:8000
  tenant: acme
  gpu_hour: {usd: 2.5, gpus: 2, input_tokens_per_s: 9000, output_tokens_per_s: 1200}
  power: {input_uj_per_token: 90000, output_uj_per_token: 2000000, uj_per_call: 5, low_percent: 80, high_percent: 130}
  carbon: {g_per_kwh: 380.5, basis: "grid operator, 2025"}
  meter: {node: gpu-host, devices: [0, GPU-5c1d]}
policies:
- {id: eu, template: region-stays-in-region, parameters: {regions: [eu]}}
aliases:
- {name: company/default, targets: [{model: smollm2}], mode: eco}
"""
