# The service's own role: for a Kubernetes service account (IRSA, or EKS Pod Identity), or for an EC2 instance. All that it may
# do is assume the targets' roles.
#
#     module "portcullis_server" {
#       source           = ".../deploy/terraform/server-role"
#       oidc_issuer      = trimprefix(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")
#       target_role_arns = ["arn:aws:iam::123456789012:role/portcullis"]
#     }
#
# or runs_on = "pod-identity" with cluster_arn, or runs_on = "instance", whose instance_profile_name goes to the instance.

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

variable "runs_on" {
  description = "irsa, pod-identity or instance."
  type        = string
  default     = "irsa"
}

variable "oidc_issuer" {
  description = "With irsa: the cluster's OIDC issuer, without https://. Its aws_iam_openid_connect_provider must be there."
  type        = string
  default     = ""
  validation {
    condition     = !startswith(var.oidc_issuer, "https://")
    error_message = "Without https://."
  }
}

variable "cluster_arn" {
  description = "With pod-identity: the cluster. The association is made beside this, with disableSessionTags (deploy/README.md)."
  type        = string
  default     = ""
}

variable "service_account" {
  description = "With irsa: who may be the service, system:serviceaccount:NAMESPACE:NAME."
  type        = string
  default     = "system:serviceaccount:portcullis:portcullis"
}

variable "target_role_arns" {
  description = "The roles of the target accounts."
  type        = list(string)
}

variable "session_per_principal" {
  description = "Whether any target has session_per_principal."
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
  server_role_arn       = "arn:${data.aws_partition.this.partition}:iam::${data.aws_caller_identity.this.account_id}:role/${var.name}"
  runs_on               = var.runs_on
  oidc_issuer           = var.oidc_issuer
  cluster_arn           = var.cluster_arn
  service_account       = var.service_account
  target_role_arns      = var.target_role_arns
  session_per_principal = var.session_per_principal
}

resource "aws_iam_role" "this" {
  name                 = var.name
  description          = "Portcullis itself: assumes the roles of the target accounts"
  assume_role_policy   = module.policies.server_trust
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  lifecycle {
    precondition {
      condition     = var.runs_on != "irsa" || var.oidc_issuer != ""
      error_message = "runs_on irsa needs oidc_issuer."
    }
    precondition {
      condition     = var.runs_on != "pod-identity" || var.cluster_arn != ""
      error_message = "runs_on pod-identity needs cluster_arn."
    }
  }
}

resource "aws_iam_instance_profile" "this" {
  count = var.runs_on == "instance" ? 1 : 0
  name  = var.name
  role  = aws_iam_role.this.name
  tags  = var.tags
}

resource "aws_iam_role_policy" "this" {
  name   = "assume-targets"
  role   = aws_iam_role.this.id
  policy = module.policies.server
}

output "role_arn" {
  description = "serviceAccount.roleArn of the Helm chart (with irsa), and server_role_arn of the target roles."
  value       = aws_iam_role.this.arn
}

output "instance_profile_name" {
  description = "With instance: what the EC2 instance gets."
  value       = one(aws_iam_instance_profile.this[*].name)
}
