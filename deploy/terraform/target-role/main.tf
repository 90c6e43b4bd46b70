# The role that Portcullis assumes in an account whose groups it changes. Apply it there, once for each account.
#
#     module "portcullis" {
#       source          = ".../deploy/terraform/target-role"
#       server_role_arn = "arn:aws:iam::111122223333:role/portcullis-server"
#       regions         = ["us-east-1"]
#       external_id     = var.portcullis_external_id
#     }

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

variable "name" {
  description = "The role's name."
  type        = string
  default     = "portcullis"
}

variable "server_role_arn" {
  description = "The role of the service itself."
  type        = string
}

variable "external_id" {
  description = "The external_id of the target in the configuration. Empty: none is asked for."
  type        = string
  default     = ""
  sensitive   = true
}

variable "regions" {
  description = "The Regions of the target in the configuration."
  type        = list(string)
}

variable "vpc_ids" {
  description = "The VPCs whose groups may be changed. None: all."
  type        = list(string)
  default     = []
}

variable "managed_tag_values" {
  description = "Only groups whose tag portcullis-managed has one of these values may be changed, and created. None: all."
  type        = list(string)
  default     = ["true"]
}

variable "create_and_delete" {
  description = "Whether groups may be created and deleted."
  type        = bool
  default     = false
}

variable "explain_denials" {
  description = "What ec2_decode_authorization_messages needs."
  type        = bool
  default     = false
}

variable "session_per_principal" {
  description = "What session_per_principal needs."
  type        = bool
  default     = true
}

variable "permissions_boundary" {
  description = "The ARN of a permissions boundary."
  type        = string
  default     = null
}

variable "tags" {
  description = "The role's tags."
  type        = map(string)
  default     = {}
}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

module "policies" {
  source                = "../policies"
  partition             = data.aws_partition.this.partition
  account_id            = data.aws_caller_identity.this.account_id
  server_role_arn       = var.server_role_arn
  external_id           = var.external_id
  regions               = var.regions
  vpc_ids               = var.vpc_ids
  managed_tag_values    = var.managed_tag_values
  create_and_delete     = var.create_and_delete
  explain_denials       = var.explain_denials
  session_per_principal = var.session_per_principal
}

resource "aws_iam_role" "this" {
  name                 = var.name
  description          = "Assumed by Portcullis to change security groups"
  assume_role_policy   = module.policies.target_trust
  max_session_duration = 3600
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
}

resource "aws_iam_role_policy" "this" {
  name   = "portcullis"
  role   = aws_iam_role.this.id
  policy = module.policies.target
}

output "role_arn" {
  description = "role_arn of the target in the configuration."
  value       = aws_iam_role.this.arn
}
