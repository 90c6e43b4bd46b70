# The service's own role, for a Kubernetes service account (IRSA). All that it may do is assume the targets' roles.
#
#     module "portcullis_server" {
#       source           = ".../deploy/terraform/server-role"
#       oidc_issuer      = trimprefix(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")
#       target_role_arns = ["arn:aws:iam::123456789012:role/portcullis"]
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
  default     = "portcullis-server"
}

variable "oidc_issuer" {
  description = "The cluster's OIDC issuer, without https://. Its aws_iam_openid_connect_provider must be there."
  type        = string
}

variable "service_account" {
  description = "Who may be the service: system:serviceaccount:NAMESPACE:NAME."
  type        = string
  default     = "system:serviceaccount:portcullis:portcullis"
}

variable "target_role_arns" {
  description = "The roles of the target accounts."
  type        = list(string)
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
  source           = "../policies"
  partition        = data.aws_partition.this.partition
  server_role_arn  = "arn:${data.aws_partition.this.partition}:iam::${data.aws_caller_identity.this.account_id}:role/${var.name}"
  oidc_issuer      = var.oidc_issuer
  service_account  = var.service_account
  target_role_arns = var.target_role_arns
}

resource "aws_iam_role" "this" {
  name                 = var.name
  description          = "Portcullis itself: assumes the roles of the target accounts"
  assume_role_policy   = module.policies.server_trust
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
}

resource "aws_iam_role_policy" "this" {
  name   = "assume-targets"
  role   = aws_iam_role.this.id
  policy = module.policies.server
}

output "role_arn" {
  description = "serviceAccount.roleArn of the Helm chart, and server_role_arn of the target roles."
  value       = aws_iam_role.this.arn
}
