# Fills one of deploy/iam's documents: conditions and resources get their values, and what has none is left out.

variable "text" {
  description = "The document."
  type        = string
}

variable "conditions" {
  description = "The values of a condition key, wherever it is asked for. None: it is not asked for."
  type        = map(list(string))
  default     = {}
}

variable "resources" {
  description = "The resources of the statement with this Sid."
  type        = map(list(string))
  default     = {}
}

variable "omit" {
  description = "The Sids of statements that are left out."
  type        = list(string)
  default     = []
}

locals {
  document = jsondecode(var.text)

  # What each statement asks for: {operator = {key = values}}, without keys that have no values.
  conditions = {
    for statement in local.document.Statement : statement.Sid => {
      for operator, keys in try(statement.Condition, {}) : operator => {
        for key, values in keys : key => lookup(var.conditions, key, values)
        if length(lookup(var.conditions, key, values)) > 0
      }
    }
  }
  asked = {
    for sid, operators in local.conditions : sid => {
      for operator, keys in operators : operator => keys if length(keys) > 0
    }
  }

  statements = [
    for statement in local.document.Statement : merge(
      { for member, value in statement : member => value if member != "Condition" },
      { for sid, resources in var.resources : "Resource" => resources if sid == statement.Sid },
      { for member, asked in { Condition = local.asked[statement.Sid] } : member => asked if length(asked) > 0 },
    ) if !contains(var.omit, statement.Sid)
  ]
}

output "json" {
  description = "The document, filled."
  value       = jsonencode({ Version = local.document.Version, Statement = local.statements })
}
