# The IAM policies of deploy/iam with one's own values. No provider is needed, so that they can be rendered, read and
# tested anywhere.

terraform {
  required_version = ">= 1.6"
}

locals {
  iam = "${path.module}/../../iam"

  documents = {
    for name in ["server", "server-trust", "server-trust-pod-identity", "server-trust-instance", "target", "target-trust"] : name => replace(replace(replace(replace(replace(replace(
      file("${local.iam}/${name}.json"),
      "arn:aws:iam::111122223333:role/portcullis-server", var.server_role_arn),
      "arn:aws:iam::111122223333:oidc-provider", "arn:aws:iam::${split(":", var.server_role_arn)[4]}:oidc-provider"),
      "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE", var.oidc_issuer),
      "123456789012", var.account_id),
      "ec2.amazonaws.com", var.partition == "aws-cn" ? "ec2.amazonaws.com.cn" : "ec2.amazonaws.com"),
    "\"arn:aws:", "\"arn:${var.partition}:")
  }

  # Who may be the service, by where it runs.
  trusts = {
    irsa         = "server-trust"
    pod-identity = "server-trust-pod-identity"
    instance     = "server-trust-instance"
  }

  vpcs = [for id in var.vpc_ids : "arn:${var.partition}:ec2:*:${var.account_id}:vpc/${id}"]
}

module "target" {
  source = "./fill"
  text   = local.documents["target"]
  conditions = {
    "ec2:Region"                         = var.regions
    "ec2:Vpc"                            = local.vpcs
    "aws:ResourceTag/portcullis-managed" = var.managed_tag_values
    "aws:RequestTag/portcullis-managed"  = var.managed_tag_values
  }
  resources = {
    CreateGroupsInVpcs = length(var.vpc_ids) > 0 ? local.vpcs : ["arn:${var.partition}:ec2:*:${var.account_id}:vpc/*"]
  }
  omit = concat(
    var.create_and_delete ? [] : ["CreateGroups", "CreateGroupsInVpcs", "DeleteGroups"],
    var.explain_denials ? [] : ["ExplainDenials"],
  )
}

module "target_trust" {
  source     = "./fill"
  text       = local.documents["target-trust"]
  conditions = { "sts:ExternalId" = var.external_id == "" ? [] : [var.external_id] }
  omit       = var.session_per_principal ? [] : ["NameTheCaller", "DescribeTheCaller"]
}

module "server" {
  source    = "./fill"
  text      = local.documents["server"]
  resources = { for sid in ["BecomeTheTargets", "NameTheCaller"] : sid => var.target_role_arns }
  omit      = var.session_per_principal ? [] : ["NameTheCaller"]
}

module "server_trust" {
  source = "./fill"
  text   = local.documents[local.trusts[var.runs_on]]
  conditions = {
    "${var.oidc_issuer}:sub" = [var.service_account]
    "aws:SourceArn"          = [var.cluster_arn]
    "aws:SourceAccount"      = [split(":", var.server_role_arn)[4]]
  }
}
