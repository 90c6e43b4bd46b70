output "server" {
  description = "What the service's own role may do."
  value       = module.server.json
}

output "server_trust" {
  description = "Who may be the service's own role, by runs_on."
  value       = module.server_trust.json
}

output "target" {
  description = "What the role in a target account may do."
  value       = module.target.json
}

output "target_trust" {
  description = "Who may be the role in a target account."
  value       = module.target_trust.json
}
