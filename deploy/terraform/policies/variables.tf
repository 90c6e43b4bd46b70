# The defaults are the sample values of deploy/iam: with them the outputs are those documents.

variable "partition" {
  description = "aws, aws-us-gov or aws-cn."
  type        = string
  default     = "aws"
}

variable "account_id" {
  description = "The target account."
  type        = string
  default     = "123456789012"
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "An account id has 12 digits."
  }
}

variable "regions" {
  description = "The Regions in which groups may be seen and changed: those of the target in the configuration."
  type        = list(string)
  default     = ["us-east-1", "eu-west-1"]
  validation {
    condition     = length(var.regions) > 0
    error_message = "Name the Regions."
  }
}

variable "vpc_ids" {
  description = "The VPCs whose groups may be changed. None: all."
  type        = list(string)
  default     = ["vpc-0123456789abcdef0"]
}

variable "managed_tag_values" {
  description = "Only groups whose tag portcullis-managed has one of these values may be changed, and created. None: all."
  type        = list(string)
  default     = ["true"]
}

variable "create_and_delete" {
  description = "Whether groups may be created and deleted."
  type        = bool
  default     = true
}

variable "explain_denials" {
  description = "What ec2_decode_authorization_messages needs."
  type        = bool
  default     = true
}

variable "session_per_principal" {
  description = "What session_per_principal needs: docs/aws-identity.md."
  type        = bool
  default     = true
}

variable "external_id" {
  description = "The external_id of the target. Empty: none is asked for."
  type        = string
  default     = "replace-me"
}

variable "server_role_arn" {
  description = "The role of the service itself."
  type        = string
  default     = "arn:aws:iam::111122223333:role/portcullis-server"
}

variable "target_role_arns" {
  description = "The roles of the target accounts."
  type        = list(string)
  default     = ["arn:aws:iam::123456789012:role/portcullis"]
}

variable "runs_on" {
  description = "Where the service gets its credentials from: irsa (a service account, by the cluster's OIDC issuer), pod-identity (EKS Pod Identity) or instance (an EC2 instance's profile)."
  type        = string
  default     = "irsa"
  validation {
    condition     = contains(["irsa", "pod-identity", "instance"], var.runs_on)
    error_message = "irsa, pod-identity or instance."
  }
}

variable "cluster_arn" {
  description = "With pod-identity: the cluster that may give the role to its pods."
  type        = string
  default     = "arn:aws:eks:us-east-1:111122223333:cluster/EXAMPLE"
}

variable "oidc_issuer" {
  description = "With irsa: the cluster's OIDC issuer, without https://."
  type        = string
  default     = "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE"
}

variable "service_account" {
  description = "With irsa: who may be the service, system:serviceaccount:NAMESPACE:NAME."
  type        = string
  default     = "system:serviceaccount:portcullis:portcullis"
}
